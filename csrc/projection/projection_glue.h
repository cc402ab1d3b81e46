// Projections and steps as ops on tensors, the same for every device.
#pragma once

#include <optional>
#include <tuple>
#include <type_traits>

#include "common/glue.h"
#include "projection/per_row.h"
#include "projection/step.h"

namespace integralrob {

struct BatchShape {
    int64_t rows, length;

    explicit BatchShape(const Tensor& batch) {
        check(batch.dim() >= 1, "the batch: expected shape [B, ...]");
        rows = batch.size(0);
        length = rows == 0 ? 0 : batch.numel() / rows;
    }
};

inline void check_like(const char* name, const Tensor& tensor, const Tensor& batch) {
    check(same_device(tensor, batch) && tensor.scalar_type() == batch.scalar_type() &&
              tensor.numel() == batch.numel(),
          name, ": expected the device, dtype and shape of the batch");
}

// A number, or a tensor with one value or one per sample.
template <typename Value, typename Number>
PerRow<Value> per_row(const char*, Number value, const Tensor&) {
    return {nullptr, 0, static_cast<Value>(value)};
}
template <typename Value>
PerRow<Value> per_row(const char* name, const Tensor& value, const Tensor& batch) {
    constexpr bool kCount = std::is_same_v<Value, int64_t>;
    check(same_device(value, batch) && value.is_contiguous() &&
              value.scalar_type() == (kCount ? ScalarType::Long : arithmetic_dtype(batch.scalar_type())) &&
              (value.numel() == 1 || value.numel() == batch.size(0)),
          name, ": expected one value, or one per sample, on the device of the batch, ",
          kCount ? "int64" : "float64 for a float64 batch, else float32");
    return {data<Value>(value), value.numel() == 1 ? 0 : 1};
}

// The center of a box, contiguous; without one there is no box.
class Center {
  public:
    Center(const std::optional<Tensor>& center, const Tensor& batch) {
        if (!center.has_value()) return;
        check_like("center", *center, batch);
        center_ = as_contiguous(*center);
    }
    template <typename T>
    const T* values() const {
        return center_ ? data<const T>(*center_) : nullptr;
    }

  private:
    std::optional<Tensor> center_;
};

// Kernels are those of a device, made for a batch and its device, on contiguous [rows, length]:
//   project_linf<T>, project_l1<T>, project_l2<T>(delta, center or null, eps, lo, hi, rows, length, out)
//   project_linf_backward<T>(grad, delta, eps, center or null, lo, hi, rows, length, grad_delta, grad_eps,
//                            grad_center or null)
//   project_l1_backward<T>, project_l2_backward<T>(grad, delta, result, eps, and so on)
template <typename Kernels>
class ProjectionOps {
  public:
    static void implement(torch::stable::detail::StableLibrary& library) {
        library.impl("project_linf", TORCH_BOX(&ProjectionOps::project<0>));
        library.impl("project_l1", TORCH_BOX(&ProjectionOps::project<1>));
        library.impl("project_l2", TORCH_BOX(&ProjectionOps::project<2>));
        library.impl("project_linf_backward", TORCH_BOX(&ProjectionOps::project_linf_backward));
        library.impl("project_l1_backward", TORCH_BOX(&ProjectionOps::project_backward<1>));
        library.impl("project_l2_backward", TORCH_BOX(&ProjectionOps::project_backward<2>));
    }

  private:
    template <int kNorm>
    static Tensor project(const Tensor& delta_, const Tensor& eps, const std::optional<Tensor>& center_,
                          double lower, double upper) {
        const Tensor delta = as_contiguous(delta_);
        const BatchShape shape(delta);
        const Center center(center_, delta);
        Tensor out = new_result(delta, delta.sizes());
        for_dtype("delta", delta.scalar_type(), [&]<typename T>() {
            using A = arithmetic_t<T>;
            const auto call = [&](const auto&... arguments) {
                if constexpr (kNorm == 0) Kernels(delta).template project_linf<T>(arguments...);
                if constexpr (kNorm == 1) Kernels(delta).template project_l1<T>(arguments...);
                if constexpr (kNorm == 2) Kernels(delta).template project_l2<T>(arguments...);
            };
            call(data<const T>(delta), center.values<T>(), per_row<A>("eps", eps, delta),
                 static_cast<A>(lower), static_cast<A>(upper), shape.rows, shape.length, data<T>(out));
        });
        return out;
    }

    using Gradients = std::tuple<Tensor, Tensor, Tensor>;

    static Gradients project_linf_backward(const Tensor& grad, const Tensor& delta, const Tensor& eps,
                                           const std::optional<Tensor>& center, double lower, double upper) {
        return gradients(
            grad, delta, eps, center, lower, upper,
            []<typename T>(const Tensor& batch, const T* grad, const T* delta, const auto&... arguments) {
                Kernels(batch).template project_linf_backward<T>(grad, delta, arguments...);
            });
    }

    template <int kNorm>
    static Gradients project_backward(const Tensor& grad, const Tensor& delta, const Tensor& result_,
                                      const Tensor& eps, const std::optional<Tensor>& center, double lower,
                                      double upper) {
        check_like("result", result_, delta);
        const Tensor result = as_contiguous(result_);
        return gradients(
            grad, delta, eps, center, lower, upper,
            [&]<typename T>(const Tensor& batch, const T* grad, const T* delta, const auto&... arguments) {
                const auto call = [&](const auto&... all) {
                    if constexpr (kNorm == 1) Kernels(batch).template project_l1_backward<T>(all...);
                    if constexpr (kNorm == 2) Kernels(batch).template project_l2_backward<T>(all...);
                };
                call(grad, delta, data<const T>(result), arguments...);
            });
    }

    // function(batch, grad, delta, eps, center, ...) makes the gradients of delta, eps and center.
    template <typename Function>
    static Gradients gradients(const Tensor& grad_, const Tensor& delta_, const Tensor& eps,
                               const std::optional<Tensor>& center_, double lower, double upper,
                               const Function& function) {
        const Tensor delta = as_contiguous(delta_);
        const BatchShape shape(delta);
        check_like("grad", grad_, delta);
        const Tensor grad = as_contiguous(grad_);
        const Center center(center_, delta);
        const int64_t none = 0;
        Tensor grad_delta = new_result(delta, delta.sizes());
        Tensor grad_eps = new_result(eps, {&shape.rows, 1});
        Tensor grad_center =
            center_.has_value() ? new_result(delta, delta.sizes()) : new_result(delta, {&none, 1});
        for_dtype("delta", delta.scalar_type(), [&]<typename T>() {
            using A = arithmetic_t<T>;
            function(delta, data<const T>(grad), data<const T>(delta), per_row<A>("eps", eps, delta),
                     center.values<T>(), static_cast<A>(lower), static_cast<A>(upper), shape.rows,
                     shape.length, data<T>(grad_delta), data<A>(grad_eps),
                     center_.has_value() ? data<T>(grad_center) : nullptr);
        });
        return {grad_delta, grad_eps, grad_center};
    }
};

// One overload of a step: `Value` is that of eps and of the size, Count that of the number of entries that
// l1 keeps, and nothing for other norms; numbers, or tensors with one value or one per sample.
template <typename Kernels, int kNorm, typename Value, typename... Count>
class StepOp {
  public:
    static Tensor step(const Tensor& x_adv_, const Tensor& grad, const Tensor& x, const Tensor& previous,
                       Value eps, Value size, Count... kept, double momentum, double lower, double upper) {
        const Tensor x_adv = as_contiguous(x_adv_);
        Tensor out = new_result(x_adv, x_adv.sizes());
        step_into(out, x_adv, grad, x, previous, eps, size, momentum, lower, upper, kept...);
        return out;
    }

    static void step_in_place(Tensor x_adv, const Tensor& grad, const Tensor& x, const Tensor& previous,
                              Value eps, Value size, Count... kept, double momentum, double lower,
                              double upper) {
        Tensor result = as_contiguous(x_adv);
        step_into(result, result, grad, x, previous, eps, size, momentum, lower, upper, kept...);
        if (!x_adv.is_contiguous()) torch::stable::copy_(x_adv, result);
    }

  private:
    // out may be x_adv, which is contiguous.
    static void step_into(Tensor& out, const Tensor& x_adv, const Tensor& grad_, const Tensor& x_,
                          const Tensor& previous_, Value eps, Value size, double momentum, double lower,
                          double upper, Count... kept) {
        const BatchShape shape(x_adv);
        check_like("grad", grad_, x_adv);
        check_like("x", x_, x_adv);
        check_like("previous", previous_, x_adv);
        const Tensor grad = as_contiguous(grad_), x = as_contiguous(x_);
        const Tensor previous = momentum > 0 ? as_contiguous(previous_) : x;
        for_dtype("x_adv", x_adv.scalar_type(), [&]<typename T>() {
            using A = arithmetic_t<T>;
            const Step<T> step{data<const T>(x_adv),
                               data<const T>(grad),
                               data<const T>(x),
                               momentum > 0 ? data<const T>(previous) : nullptr,
                               per_row<A>("eps", eps, x_adv),
                               per_row<A>("step_size", size, x_adv),
                               {per_row<int64_t>("k", kept, x_adv)...},
                               static_cast<A>(momentum),
                               static_cast<A>(lower),
                               static_cast<A>(upper),
                               shape.rows,
                               shape.length,
                               data<T>(out)};
            const Kernels kernels(x_adv);
            if constexpr (kNorm == 0) kernels.template linf_step<T>(step);
            if constexpr (kNorm == 1) kernels.template l1_step<T>(step);
            if constexpr (kNorm == 2) kernels.template l2_step<T>(step);
        });
    }
};

// Likewise: linf_step<T>, l1_step<T>, l2_step<T>(step).
template <typename Kernels>
class StepOps {
  public:
    static void implement(torch::stable::detail::StableLibrary& library) {
        implement_one<StepOp<Kernels, 0, double>>(library, "linf_step", "linf_step_");
        implement_one<StepOp<Kernels, 0, const Tensor&>>(library, "linf_step.per_sample",
                                                         "linf_step_.per_sample");
        implement_one<StepOp<Kernels, 1, double, int64_t>>(library, "l1_step", "l1_step_");
        implement_one<StepOp<Kernels, 1, const Tensor&, const Tensor&>>(library, "l1_step.per_sample",
                                                                        "l1_step_.per_sample");
        implement_one<StepOp<Kernels, 2, double>>(library, "l2_step", "l2_step_");
        implement_one<StepOp<Kernels, 2, const Tensor&>>(library, "l2_step.per_sample",
                                                         "l2_step_.per_sample");
    }

  private:
    template <typename Op>
    static void implement_one(torch::stable::detail::StableLibrary& library, const char* name,
                              const char* in_place) {
        library.impl(name, TORCH_BOX(&Op::step));
        library.impl(in_place, TORCH_BOX(&Op::step_in_place));
    }
};

}  // namespace integralrob
