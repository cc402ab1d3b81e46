// Projections onto the l1 and the l2 ball within a box on CUDA.
#include "common/launch.cuh"
#include "projection/ball_cuda.cuh"
#include "projection/projection_cuda.h"

namespace integralrob::cuda {
namespace {

template <typename T, template <typename> typename Ball_>
struct Projection {
    using A = arithmetic_t<T>;
    using Ball = Ball_<A>;
    static constexpr size_t kScratch = Sample<T>::kBytes;
    class Row;

    const T *delta, *center;  // center may be null
    PerRow<A> eps;
    A lo, hi;
    int64_t rows, length;
    T* out;
    bool vectors = false;
    A scale = 1;

    template <typename Team, typename Entries>
    __device__ void run(Team& team, const Row& row, Entries& entries, unsigned char* scratch) const {
        const auto formula = project<Ball, T>(team, entries, length, row.eps, scale, scratch);
        for_pieces(entries, [&](int64_t k, const auto& piece) { row.store(k, piece, formula); });
    }
};

template <typename T, template <typename> typename Ball_>
class Projection<T, Ball_>::Row {
  public:
    using Piece = cuda::Piece<T, 2>;
    static constexpr int kStages = 0, kPiecesOnTheirWay = 4, kResident = 0;
    const A eps;
    const int64_t length;

    __device__ Row(const Projection& p, int64_t row)
        : eps(radius(p.eps[row])), length(p.length), p_(p), memory_(row, p.length, p.vectors) {}

    __device__ Piece load(int64_t k) const {
        const A most = Ball::most(eps);
        const Vector<T> y = memory_.load(p_.delta, k);
        Vector<T> center{};
        if (p_.center != nullptr) center = memory_.load(p_.center, k);
        Piece piece;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            const A x = widen(y.lane[lane]);
            const A limit = p_.center == nullptr
                                ? most
                                : integralrob::limit(x, A(widen(center.lane[lane])), p_.lo, p_.hi, most);
            piece.of[0][lane] = bounded(x, limit, eps);
            piece.of[1][lane] = k + lane < length ? limit : A(0);
        }
        return piece;
    }

    __device__ void store(int64_t k, const Piece& piece, const typename Ball::Formula& formula) const {
        Vector<T> out;
#pragma unroll
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            const A y = piece.of[0][lane];
            out.lane[lane] = signed_entry(formula(A(fabs(y)), piece.of[1][lane]), narrow<T>(y));
        }
        memory_.store(p_.out, k, out);
    }

  private:
    const Projection& p_;
    RowMemory<T> memory_;
};

template <template <typename> typename Ball, typename T>
void project_ball(Projection<T, Ball> p, const char* purpose, Place place, const Device& device,
                  cudaStream_t stream) {
    p.vectors = p.length % kLanes<T> == 0 && aligned16(p.delta, p.center, p.out);
    p.scale = scale_of_sums<arithmetic_t<T>>(p.length);
    launch_rows(p, purpose, place, device, stream);
}

}  // namespace

template <typename T>
void project_l1(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t rows, int64_t length, T* out, cudaStream_t stream) {
    project_ball<L1Ball, T>({delta, center, eps, lo, hi, rows, length, out}, "project_l1", Place::kAny,
                            Device::current(), stream);
}

template <typename T>
void project_l2(const T* delta, const T* center, PerRow<arithmetic_t<T>> eps, arithmetic_t<T> lo,
                arithmetic_t<T> hi, int64_t rows, int64_t length, T* out, cudaStream_t stream) {
    project_ball<L2Ball, T>({delta, center, eps, lo, hi, rows, length, out}, "project_l2", Place::kAny,
                            Device::current(), stream);
}

#define INTEGRALROB_INSTANTIATE(T)                                                            \
    template void project_l1<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>, \
                                arithmetic_t<T>, int64_t, int64_t, T*, cudaStream_t);         \
    template void project_l2<T>(const T*, const T*, PerRow<arithmetic_t<T>>, arithmetic_t<T>, \
                                arithmetic_t<T>, int64_t, int64_t, T*, cudaStream_t);
INTEGRALROB_INSTANTIATE(float)
INTEGRALROB_INSTANTIATE(double)
INTEGRALROB_INSTANTIATE(Half)
INTEGRALROB_INSTANTIATE(BFloat16)

}  // namespace integralrob::cuda
