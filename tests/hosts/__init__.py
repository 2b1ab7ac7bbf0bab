import pytest

# So that what fails there is shown in full, as in the tests themselves.
pytest.register_assert_rewrite(f"{__name__}.proofs", f"{__name__}.servers")
