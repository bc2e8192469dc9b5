/** `tsc --strict` on programs that use the types: what is right passes, and each wrong line is told. */

import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { afterAll, beforeAll, expect, test } from "vitest";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const OPTIONS = {
  strict: true, noEmit: true, exactOptionalPropertyTypes: true, skipLibCheck: false, types: [],
  target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext,
  lib: ["lib.es2022.d.ts", "lib.dom.d.ts"], jsx: ts.JsxEmit.ReactJSX,
};

let project;

beforeAll(() => {
  // A project of somebody else, with the package installed.
  project = mkdtempSync(join(tmpdir(), "runcast-types-"));
  writeFileSync(join(project, "package.json"), '{"type": "module"}');
  symlinkSync(here("node_modules"), join(project, "node_modules"));
});

afterAll(() => rmSync(project, { recursive: true }));

/** The errors of a program, each with its line. */
function check(text, name = "program.ts") {
  const file = join(project, name);
  writeFileSync(file, text);
  const paths = { runcast: [here("../../gateway/web/runcast.d.ts")], "runcast/react": [here("../../gateway/web/runcast-react.d.ts")] };
  const program = ts.createProgram([file], { ...OPTIONS, paths });
  return ts.getPreEmitDiagnostics(program).map(({ file: at, start, messageText }) => {
    const line = at ? `${at.fileName.split("/").at(-1)}:${at.getLineAndCharacterOfPosition(start).line + 1} ` : "";
    return line + ts.flattenDiagnosticMessageText(messageText, " ");
  });
}

test("a program that uses all of it is right", () => {
  expect(check(readFileSync(here("support/program.ts"), "utf8"))).toEqual([]);
}, 60_000);

test("the component of the documentation is right", () => {
  const page = readFileSync(here("../../docs/how-to/build-a-chat-page.md"), "utf8");
  expect(check(/```tsx\n(.*?)```/s.exec(page)[1], "Chat.tsx")).toEqual([]);
}, 60_000);

test("what the schema does not have is wrong", () => {
  const wrong = [
    'chat.on("tool_executing", (event) => event.payload.tol);',
    'chat.on("agent_completed", (event) => event.payload.status === "done");',
    'chat.on("agent_delta", (_, { text }) => text.toFixed());',
    'new RuncastClient({ token: async () => 1 });',
    'new RuncastClient({ token: async () => "", mode: "broad" });',
    "void chat.send(undefined);",
  ];
  const head = 'import { RuncastClient } from "runcast";\nconst chat = new RuncastClient({ token: async () => "" });\n';
  const found = check(head + wrong.join("\n")).map((error) => Number(/:(\d+) /.exec(error)?.[1]));
  expect([...new Set(found)]).toEqual(wrong.map((_, number) => number + 3));
}, 60_000);
