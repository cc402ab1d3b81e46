// What every *_cuda_ops.cpp needs beside common/glue.h.
#pragma once

#include "common/glue.h"
#include "device.h"  // of the GPU in common/cuda, of the emulator in tests/simt/torch: as the include path says

// What the ops are registered for.
#ifndef INTEGRALROB_CUDA_NAMESPACE
#define INTEGRALROB_CUDA_NAMESPACE integralrob
#define INTEGRALROB_CUDA_KEY CUDA
#endif
