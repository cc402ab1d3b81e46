// The kernels of the weight gradients, for test_sampling_cuda: a file of their own, as in the library.
#include "limited_launch.h"
//
#include "sampling/weight_grad_cuda.cu"
