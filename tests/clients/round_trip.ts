// Use a client that openapi-typescript and openapi-fetch have made, and print what came of it as JSON.
// Arguments: the URL of a server, and a key.

import createClient from "openapi-fetch";
import type { components, paths } from "./projects_client.js";

declare const process: { argv: string[] };

const NAME = "a/b ü?";
const [url, key] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });

type Project = components["schemas"]["Project"];
type Page = components["schemas"]["Page"];

async function create(name: string, description?: string) {
  return client.POST("/v1/projects", { body: { name, description } });
}

async function getPage(query: { limit?: number; cursor?: string; name_contains?: string }): Promise<Page> {
  const { data } = await client.GET("/v1/projects", { params: { query } });
  return data!;
}

const path = { project_identifier: NAME };
const created: Project = (await create(NAME, "first")).data!.data;
for (let number = 0; number < 4; number++) {
  await create(`p${number}`);
}
const pages = [await getPage({ limit: 4 })];
for (let cursor = pages[0].next_cursor; cursor !== null; cursor = pages[pages.length - 1].next_cursor) {
  pages.push(await getPage({ limit: 4, cursor }));
}
const found = await getPage({ name_contains: "B Ü" });
const got = await client.GET("/v1/projects/{project_identifier}", { params: { path } });
const updated = await client.PUT("/v1/projects/{project_identifier}", {
  params: { path },
  body: { description: "second" },
});
const kept = await client.PUT("/v1/projects/{project_identifier}", { params: { path }, body: {} });
const exists = await create("default");
const wrong = await create("");
if (wrong.error === undefined || typeof wrong.error === "string") {
  throw new Error("a name was taken that is empty");
}
const deleted = await client.DELETE("/v1/projects/{project_identifier}", { params: { path } });
const gone = await client.GET("/v1/projects/{project_identifier}", { params: { path } });
const health = await client.GET("/healthz", { parseAs: "text" });
const version = await client.GET("/arize_phoenix_version", { parseAs: "text" });
const document = await client.GET("/openapi.json");
const stranger = await client.GET("/v1/projects", { headers: { Authorization: "Bearer wrong" } });
console.log(
  JSON.stringify({
    created,
    pages: pages.map((page) => page.data.map((project) => project.name)),
    found: found.data.map((project) => project.name),
    got: got.data?.data,
    updated: updated.data?.data,
    kept: kept.data?.data,
    exists: [exists.response.status, exists.error],
    wrong: [wrong.response.status, wrong.error.detail[0].type, wrong.error.detail[0].loc],
    deleted: deleted.response.status,
    gone: [gone.response.status, gone.error],
    health: health.data,
    version: version.data,
    openapi: document.data?.openapi,
    stranger: stranger.response.status,
  }),
);
