"""A data analysis with the code interpreter: a table, a figure with its data, and a cell that keeps what an earlier one
made.

    npx firkin template add code-interpreter && pip install e2b-code-interpreter
    eval "$(npx firkin env)" && python3 examples/code_interpreter.py
"""

from e2b_code_interpreter import Sandbox

sandbox = Sandbox.create(timeout=300)
try:
    table = sandbox.run_code(
        "import pandas as pd\n"
        'sales = pd.DataFrame({"month": ["Jan", "Feb", "Mar"], "units": [120, 180, 90]})\n'
        "sales"
    )
    print("the table's data:", table.results[0].data)

    figure = sandbox.run_code(
        'import matplotlib.pyplot as plt\nplt.bar(sales["month"], sales["units"])\n'
        'plt.title("Units sold")\nplt.show()\nprint("drawn")',
        on_stdout=lambda message: print("the cell prints:", message.line.strip()),
    )
    bar = figure.results[0]
    print(f"the figure: {len(bar.png)} characters of PNG, a {bar.chart.type.value} chart {bar.chart.title!r}")

    best = sandbox.run_code('sales.loc[sales["units"].idxmax(), "month"]')
    print("the best month:", best.text)

    wrong = sandbox.run_code("sales['price']")
    print("an error:", wrong.error.name, wrong.error.value)
finally:
    sandbox.kill()
