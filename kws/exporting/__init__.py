"""A trained model and its front-end as one small ONNX graph: what `kws.export` writes."""
