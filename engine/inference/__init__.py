"""Engines that run a graph of their own: what ONNX Runtime and OpenVINO share."""
