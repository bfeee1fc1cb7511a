"""ONNX files, read and written without onnx."""
