"""kws: a keyword-spotting toolkit. Commands are modules: `python -m kws` lists them."""

__version__ = "0.1.0"
