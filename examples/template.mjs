/**
 * A template with a start command: built once, with a server that runs already; every sandbox of it starts with the
 * server running.
 *
 *   eval "$(npx firkin env)" && node examples/template.mjs
 */
import { ApiClient, ConnectionConfig, Sandbox, Template, waitForURL } from "e2b";

const page = "/home/user/page/index.html";
// The second argument of setStartCmd says when the server is ready, which is when the template is saved.
const template = Template()
  .fromTemplate("base")
  .runCmd(`mkdir -p /home/user/page && echo "Built on $(date -I)" > ${page}`)
  .setStartCmd("python3 -m http.server 8000 --directory /home/user/page", waitForURL("http://localhost:8000/"));

const name = "example-server";
try {
  await Template.build(template, name, {
    onBuildLogs: ({ level, message }) => console.log(`  ${level} ${message}`),
  });
  const startedMs = performance.now();
  const sandbox = await Sandbox.create(name, { timeoutMs: 300_000 });
  try {
    console.log(`created ${sandbox.sandboxId} in ${(performance.now() - startedMs).toFixed(0)} ms`);
    const { stdout } = await sandbox.commands.run("curl --silent http://localhost:8000/");
    console.log(`the server answers: ${stdout.trim()}`);
  } finally {
    await sandbox.kill();
  }
} finally {
  // A template keeps its snapshot on the disk until it is deleted, for which the SDK has no method of its own.
  const { api } = new ApiClient(new ConnectionConfig());
  const { response } = await api.DELETE("/templates/{templateID}", { params: { path: { templateID: name } } });
  console.log(`deleted the template: ${response.status}`);
}
