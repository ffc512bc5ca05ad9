"""Models to .tflite: signatures, tracing, skeletons, binding of weights. How a weight is stored, the recipe says."""
