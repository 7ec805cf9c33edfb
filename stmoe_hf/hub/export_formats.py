"""The formats of an exported network and how their files end; a file of its own, as the help of commands is light."""

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
