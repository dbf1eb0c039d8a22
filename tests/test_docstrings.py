"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import modeling_trace


class _WithoutFences(doctest.DocTestParser):
    """Docstrings show their examples in ``` fences, which doctest would take for output."""

    def get_examples(self, string, name="<string>"):
        return super().get_examples(self._strip(string), name)

    def get_doctest(self, string, *arguments):
        return super().get_doctest(self._strip(string), *arguments)

    def _strip(self, string):
        return "\n".join(line for line in string.splitlines() if not line.strip().startswith("```"))


# The page of the app, of the extra `demo`; what is behind it needs nothing
NEED_AN_EXTRA = {"modeling_trace.app.layout": "gradio", "modeling_trace.app.serving": "gradio"}


def find_examples():
    finder = doctest.DocTestFinder(parser=_WithoutFences(), exclude_empty=True)
    for info in pkgutil.walk_packages(modeling_trace.__path__, "modeling_trace."):
        if info.name in NEED_AN_EXTRA and importlib.util.find_spec(NEED_AN_EXTRA[info.name]) is None:
            continue
        module = importlib.import_module(info.name)
        yield from (test for test in finder.find(module, info.name) if test.examples)


@pytest.mark.parametrize("example", list(find_examples()), ids=lambda example: example.name)
def test_docstring_example(example):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)
