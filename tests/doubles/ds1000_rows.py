"""Rows as the hub's xlangai/DS-1000 has them, written for the tests: same fields, problems of our own."""

from __future__ import annotations

_TESTS = """
def test_execution(solution: str):
    code = exec_context.replace("[insert]", solution)
    for i in range({cases}):
        test_input, expected_result = generate_test_case(i + 1)
        test_env = {{"test_input": test_input}}
        exec(code, test_env)
        assert exec_test(test_env["result"], expected_result)
"""

_PANDAS = '''
import pandas as pd
import numpy as np
import copy

def generate_test_case(test_case_id):
    frame = pd.DataFrame({"tea": ["green", "mint", "green"], "cups": [1, 2, 3], "price": [2.0, 3.0, 2.0]})
    if test_case_id == 2:
        frame = pd.DataFrame({"tea": ["b", "a"], "cups": [4, 0], "price": [0.5, 9.0]})
    expected = copy.deepcopy(frame)
    expected["paid"] = expected["cups"] * expected["price"]
    return frame, expected

def exec_test(result, ans):
    try:
        pd.testing.assert_frame_equal(result, ans, check_dtype=False)
        return 1
    except:
        return 0

exec_context = r"""
import pandas as pd
import numpy as np
df = test_input
[insert]
result = df
"""
'''

_NUMPY = '''
import numpy as np
import tokenize, io

def generate_test_case(test_case_id):
    a = np.arange(12.0).reshape(3, 4) if test_case_id == 1 else np.array([[1.0, -1.0]])
    return a, a - a.mean(axis=0)

def exec_test(result, ans):
    np.testing.assert_allclose(result, ans)
    return 1

exec_context = r"""
import numpy as np
a = test_input
[insert]
"""

def test_string(solution: str):
    tokens = [token.string for token in tokenize.tokenize(io.BytesIO(solution.encode("utf-8")).readline)]
    assert "for" not in tokens and "while" not in tokens
'''

_SCIPY = '''
import numpy as np
from scipy import stats

def generate_test_case(test_case_id):
    rng = np.random.default_rng(test_case_id)
    a, b = rng.normal(size=20), rng.normal(size=20) + 0.5
    return (a, b), stats.ttest_ind(a, b, equal_var=False).pvalue

def exec_test(result, ans):
    assert np.allclose(result, ans)
    return 1

exec_context = r"""
import numpy as np
import scipy.stats
a, b = test_input
def p_value(a, b):
[insert]
result = p_value(a, b)
"""
'''

_TORCH = '''
import torch

def generate_test_case(test_case_id):
    x = torch.arange(6.0).reshape(2, 3)
    return x, torch.softmax(x, dim=1)

def exec_test(result, ans):
    try:
        torch.testing.assert_close(result, ans)
        return 1
    except:
        return 0

exec_context = r"""
import torch
x = test_input
[insert]
"""
'''


def _row(number: int, library: str, prompt: str, reference: str, context: str, cases: int) -> dict[str, object]:
    head, mark, rest = context.partition("def test_string")
    return {
        "prompt": f"Problem:\n{prompt}\nA:\n<code>\n</code>\nBEGIN SOLUTION\n<code>\n",
        "reference_code": reference,
        "metadata": {
            "problem_id": number,
            "library_problem_id": number,
            "library": library,
            "test_case_cnt": cases,
            "perturbation_type": "Origin",
            "perturbation_origin_id": number,
        },
        "code_context": head + _TESTS.format(cases=cases) + (f"\n\n{mark}{rest}" if mark else ""),
    }


ROWS = (
    _row(0, "Pandas", "Add what was paid.", 'df["paid"] = df["cups"] * df["price"]', _PANDAS, 2),
    _row(1, "Numpy", "Center the columns, without a loop.", "result = a - a.mean(axis=0)", _NUMPY, 2),
    _row(2, "Scipy", "Welch's test.", "    return scipy.stats.ttest_ind(a, b, equal_var=False).pvalue", _SCIPY, 2),
    _row(3, "Pytorch", "Softmax of each row.", "result = torch.softmax(x, dim=1)", _TORCH, 1),
)
