// The projections and steps for CUDA tensors.
#include "common/cuda_glue.h"
#include "projection/projection_cuda.h"
#include "projection/projection_glue.h"

namespace integralrob {
namespace {

struct CudaKernels {
    cuda::OnDevice device;

    explicit CudaKernels(const Tensor& batch) : device(batch) {}

    template <typename T, typename... Arguments>
    void project_linf(const Arguments&... arguments) const {
        cuda::project_linf<T>(arguments..., device.stream());
    }
    template <typename T, typename... Arguments>
    void project_l1(const Arguments&... arguments) const {
        cuda::project_l1<T>(arguments..., device.stream());
    }
    template <typename T, typename... Arguments>
    void project_l2(const Arguments&... arguments) const {
        cuda::project_l2<T>(arguments..., device.stream());
    }
    template <typename T, typename... Arguments>
    void project_linf_backward(const Arguments&... arguments) const {
        cuda::project_linf_backward<T>(arguments..., device.stream());
    }
    template <typename T, typename... Arguments>
    void project_l1_backward(const Arguments&... arguments) const {
        cuda::project_l1_backward<T>(arguments..., device.stream());
    }
    template <typename T, typename... Arguments>
    void project_l2_backward(const Arguments&... arguments) const {
        cuda::project_l2_backward<T>(arguments..., device.stream());
    }
    template <typename T>
    void linf_step(const Step<T>& step) const {
        cuda::linf_step<T>(step, device.stream());
    }
    template <typename T>
    void l1_step(const Step<T>& step) const {
        cuda::l1_step<T>(step, device.stream());
    }
    template <typename T>
    void l2_step(const Step<T>& step) const {
        cuda::l2_step<T>(step, device.stream());
    }
};

STABLE_TORCH_LIBRARY_IMPL(INTEGRALROB_CUDA_NAMESPACE, INTEGRALROB_CUDA_KEY, m) {
    ProjectionOps<CudaKernels>::implement(m);
    StepOps<CudaKernels>::implement(m);
}

}  // namespace
}  // namespace integralrob
