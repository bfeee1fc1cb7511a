"""One learning core: any environment, any loss, policies that leave the process as ONNX."""
