// Where kernels run: the GPU of a tensor, and torch's current stream on it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <stdexcept>

typedef struct CUstream_st* cudaStream_t;

namespace integralrob::cuda {

// Makes the tensor's GPU the current one for as long as it lives.
class OnDevice {
  public:
    explicit OnDevice(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
        void* stream = nullptr;
        if (aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream) != AOTI_TORCH_SUCCESS) {
            throw std::runtime_error("torch has no current CUDA stream for the tensor's device");
        }
        stream_ = static_cast<cudaStream_t>(stream);
    }
    cudaStream_t stream() const { return stream_; }

  private:
    torch::stable::accelerator::DeviceGuard guard_;
    cudaStream_t stream_;
};

}  // namespace integralrob::cuda
