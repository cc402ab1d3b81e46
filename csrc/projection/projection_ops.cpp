// integralrob::project_linf and linf_step for CPU tensors.
#include <optional>

#include "common/glue.h"
#include "projection/projection_kernels.h"

namespace integralrob {
namespace {

void check_like(const char* name, const Tensor& tensor, const Tensor& like) {
    check(tensor.is_cpu() && tensor.scalar_type() == like.scalar_type() && tensor.numel() == like.numel(),
          name, ": expected a CPU tensor with the dtype and shape of the batch");
}

int64_t row_length(const Tensor& batch) {
    check(batch.dim() >= 1, "the batch: expected shape [B, ...]");
    return batch.size(0) == 0 ? 0 : batch.numel() / batch.size(0);
}

template <typename A>
PerRow<A> per_row(const char* name, const Tensor& value, const Tensor& batch) {
    check(value.is_cpu() && value.is_contiguous() &&
              value.scalar_type() == arithmetic_dtype(batch.scalar_type()) &&
              (value.numel() == 1 || value.numel() == batch.size(0)),
          name, ": expected one value, or one per sample, float64 for a float64 batch, else float32");
    return {data<A>(value), value.numel() == 1 ? 0 : 1};
}

Tensor project_linf_op(const Tensor& delta_, const Tensor& eps, const std::optional<Tensor>& center_,
                       double lower, double upper) {
    const Tensor delta = as_contiguous(delta_);
    const int64_t length = row_length(delta);
    std::optional<Tensor> center;
    if (center_.has_value()) {
        check_like("center", *center_, delta);
        center = as_contiguous(*center_);
    }
    Tensor out = new_result(delta, delta.sizes());
    for_dtype("delta", delta.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        const PerRow<A> radius = per_row<A>("eps", eps, delta);
        parallel_rows(delta.numel(), 3 * sizeof(T), [&](int64_t begin, int64_t end) {
            INTEGRALROB_ON_ISA(project_linf<T>, data<const T>(delta),
                               center ? data<const T>(*center) : nullptr, radius, static_cast<A>(lower),
                               static_cast<A>(upper), length, data<T>(out), begin, end);
        });
    });
    return out;
}

template <typename T>
void run_step(const Tensor& x_adv, const Tensor& grad, const Tensor& x, PerRow<arithmetic_t<T>> eps,
              PerRow<arithmetic_t<T>> step, double lower, double upper, Tensor& out) {
    using A = arithmetic_t<T>;
    parallel_rows(x_adv.numel(), 4 * sizeof(T), [&](int64_t begin, int64_t end) {
        INTEGRALROB_ON_ISA(linf_step<T>, data<const T>(x_adv), data<const T>(grad), data<const T>(x), eps,
                           step, static_cast<A>(lower), static_cast<A>(upper), row_length(x_adv),
                           data<T>(out), begin, end);
    });
}

struct StepInputs {
    Tensor x_adv, grad, x;

    StepInputs(const Tensor& x_adv_, const Tensor& grad_, const Tensor& x_) : x_adv(as_contiguous(x_adv_)) {
        check_like("grad", grad_, x_adv_);
        check_like("x", x_, x_adv_);
        grad = as_contiguous(grad_);
        x = as_contiguous(x_);
    }
};

// out may be in.x_adv.
void step_with_numbers(const StepInputs& in, double eps, double step, double lower, double upper,
                       Tensor& out) {
    for_dtype("x_adv", in.x_adv.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        const A eps_value = static_cast<A>(eps), step_value = static_cast<A>(step);
        run_step<T>(in.x_adv, in.grad, in.x, {&eps_value, 0}, {&step_value, 0}, lower, upper, out);
    });
}

void step_per_sample(const StepInputs& in, const Tensor& eps, const Tensor& step, double lower, double upper,
                     Tensor& out) {
    for_dtype("x_adv", in.x_adv.scalar_type(), [&]<typename T>() {
        using A = arithmetic_t<T>;
        run_step<T>(in.x_adv, in.grad, in.x, per_row<A>("eps", eps, in.x_adv),
                    per_row<A>("step_size", step, in.x_adv), lower, upper, out);
    });
}

template <typename Value, void (*step_into)(const StepInputs&, Value, Value, double, double, Tensor&)>
Tensor linf_step_op(const Tensor& x_adv, const Tensor& grad, const Tensor& x, Value eps, Value step,
                    double lower, double upper) {
    const StepInputs in(x_adv, grad, x);
    Tensor out = new_result(in.x_adv, in.x_adv.sizes());
    step_into(in, eps, step, lower, upper, out);
    return out;
}

template <typename Value, void (*step_into)(const StepInputs&, Value, Value, double, double, Tensor&)>
void linf_step_in_place_op(Tensor x_adv, const Tensor& grad, const Tensor& x, Value eps, Value step,
                           double lower, double upper) {
    StepInputs in(x_adv, grad, x);
    step_into(in, eps, step, lower, upper, in.x_adv);
    if (!x_adv.is_contiguous()) torch::stable::copy_(x_adv, in.x_adv);
}

constexpr auto step_op = &linf_step_op<double, step_with_numbers>;
constexpr auto step_per_sample_op = &linf_step_op<const Tensor&, step_per_sample>;
constexpr auto step_in_place_op = &linf_step_in_place_op<double, step_with_numbers>;
constexpr auto step_in_place_per_sample_op = &linf_step_in_place_op<const Tensor&, step_per_sample>;

STABLE_TORCH_LIBRARY_IMPL(integralrob, CPU, m) {
    m.impl("project_linf", TORCH_BOX(&project_linf_op));
    m.impl("linf_step", TORCH_BOX(step_op));
    m.impl("linf_step.per_sample", TORCH_BOX(step_per_sample_op));
    m.impl("linf_step_", TORCH_BOX(step_in_place_op));
    m.impl("linf_step_.per_sample", TORCH_BOX(step_in_place_per_sample_op));
}

}  // namespace
}  // namespace integralrob
