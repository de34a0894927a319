"""kws: a keyword-spotting toolkit. Commands are modules: `python -m kws` lists them."""

__version__ = "0.1.0"

# In the wheel of kws, what the wheel kws-runtime holds too lies in a folder of its own: no file belongs to both, either
# is enough alone, and kws uses what it came with. A checkout has no such folder.
__path__.insert(0, __path__[0] + "/_with_runtime")
