/**
 * A data analysis with the code interpreter: a table, a figure with its data, and a cell that keeps what an earlier one
 * made.
 *
 *   npx firkin template add code-interpreter && npm install @e2b/code-interpreter
 *   eval "$(npx firkin env)" && node examples/code-interpreter.mjs
 */
import { Sandbox } from "@e2b/code-interpreter";

const sandbox = await Sandbox.create({ timeoutMs: 300_000 });
try {
  const table = await sandbox.runCode(`
import pandas as pd
sales = pd.DataFrame({"month": ["Jan", "Feb", "Mar"], "units": [120, 180, 90]})
sales`);
  console.log("the table's data:", JSON.stringify(table.results[0]?.data));

  const figure = await sandbox.runCode(
    `
import matplotlib.pyplot as plt
plt.bar(sales["month"], sales["units"])
plt.title("Units sold")
plt.show()
print("drawn")`,
    { onStdout: ({ line }) => console.log("the cell prints:", line.trim()) },
  );
  const [bar] = figure.results;
  console.log(`the figure: ${bar?.png?.length} characters of PNG, a ${bar?.chart?.type} chart "${bar?.chart?.title}"`);

  const best = await sandbox.runCode(`sales.loc[sales["units"].idxmax(), "month"]`);
  console.log("the best month:", best.text);

  const wrong = await sandbox.runCode("sales['price']");
  console.log("an error:", wrong.error?.name, wrong.error?.value);
} finally {
  await sandbox.kill();
}
