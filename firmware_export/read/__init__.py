"""What a policy file means: ONNX, model files, observations and actions."""
