// The CUDA kernels of the projections onto balls, emulated, against a search among the sorted breakpoints in
// float64: every way to hold a row gives the same bits.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "expect.h"
#include "projection/project_ball_cuda.cu"
#include "simt/simt.h"

using namespace integralrob;
using cuda::Place;

namespace {

using Real = long double;

template <typename T>
constexpr double kStorageRounding = 0;
template <>
constexpr double kStorageRounding<Half> = 0x1p-10;
template <>
constexpr double kStorageRounding<BFloat16> = 0x1p-7;

// Memory of just this many elements, `offset` elements from where vectors could be loaded.
template <typename T>
class Buffer {
  public:
    Buffer(int64_t count, int offset)
        : memory_(static_cast<T*>(
              std::aligned_alloc(64, (sizeof(T) * (count + offset + 2 * kGuard) + 63) / 64 * 64))),
          count_(count),
          offset_(offset) {
        for (int64_t k = 0; k < count + offset + 2 * kGuard; ++k) memory_.get()[k] = narrow<T>(kFill);
    }
    T* data() { return memory_.get() + kGuard + offset_; }
    const T* data() const { return memory_.get() + kGuard + offset_; }
    bool guards_kept() const {
        const auto kept = [&](int64_t k) { return widen(memory_.get()[k]) == widen(narrow<T>(kFill)); };
        for (int64_t k = 0; k < kGuard + offset_; ++k) {
            if (!kept(k)) return false;
        }
        for (int64_t k = 0; k < kGuard; ++k) {
            if (!kept(kGuard + offset_ + count_ + k)) return false;
        }
        return true;
    }

  private:
    static constexpr int kGuard = 64;
    static constexpr float kFill = 77;
    struct Free {
        void operator()(T* memory) const { std::free(memory); }
    };
    std::unique_ptr<T, Free> memory_;
    int64_t count_;
    int offset_;
};

struct Way {
    Place place;
    cuda::Device device;
};
// An H200; a device whose blocks have so little shared memory that clusters are of 16; one without clusters.
constexpr cuda::Device kH200 = {true, true, 227 << 10}, kSmall = {true, true, 0},
                       kOld = {false, false, 99 << 10};
const std::vector<Way> kShort = {{Place::kWarp, kH200}, {Place::kBlock, kH200}};
const std::vector<Way> kMiddle = {{Place::kBlock, kH200}, {Place::kCluster, kOld}};
const std::vector<Way> kLong = {{Place::kCluster, kH200}, {Place::kDeviceMemory, kOld}};
const std::vector<Way> kAll = {{Place::kWarp, kH200},       {Place::kBlock, kH200},
                               {Place::kCluster, kH200},    {Place::kCluster, kSmall},
                               {Place::kCluster, kOld},     {Place::kDeviceMemory, kH200},
                               {Place::kDeviceMemory, kOld}};

template <typename A>
struct Box {
    bool center;
    A lo, hi;
};

// What a row is made of.
enum class Kind {
    kUniform,
    kSparse,
    kTies,
    kTiny,
    kHuge,
    kWide,
    kInside,
    kZeros,
    kInfinite,
    kNaN,
    kNaNCenter,
    kKinds
};

template <typename T>
struct Case {
    using A = arithmetic_t<T>;
    int64_t rows, length;
    int offset;
    Buffer<T> delta, center;
    std::vector<A> eps;
    std::vector<Kind> kinds;
    Box<A> box;

    Case(expect::Random& random, int64_t rows_, int64_t length_, int offset_, Box<A> box_, int first_kind)
        : rows(rows_),
          length(length_),
          offset(offset_),
          delta(rows * length, offset),
          center(rows * length, offset),
          eps(rows),
          kinds(rows),
          box(box_) {
        for (int64_t row = 0; row < rows; ++row)
            fill(random, row, static_cast<Kind>((first_kind + row) % int(Kind::kKinds)));
    }

    void fill(expect::Random& random, int64_t row, Kind kind) {
        kinds[row] = kind;
        const bool half = sizeof(T) == 2;
        const double tiny = half             ? 1e-3
                            : sizeof(T) == 4 ? 1e-30
                                             : 1e-200,
                     huge = half             ? 1e3
                            : sizeof(T) == 4 ? 1e30
                                             : 1e200;
        const int64_t special = random.below(length);
        double size = 1;
        if (kind == Kind::kTiny) size = tiny;
        if (kind == Kind::kHuge) size = huge;
        for (int64_t k = 0; k < length; ++k) {
            double y = random.number() * size;
            if (kind == Kind::kSparse && random.below(16) != 0) y = 0;
            if (kind == Kind::kTies) y = y < 0 ? -0.5 : 0.5;
            if (kind == Kind::kWide) y *= std::exp(std::log(half ? 1e-2 : 1e-9) * std::fabs(random.number()));
            if (kind == Kind::kZeros) y = y < 0 ? -0.0 : 0.0;
            if (kind == Kind::kInfinite && k == special) y = -std::numeric_limits<double>::infinity();
            if (kind == Kind::kNaN && k == special) y = std::numeric_limits<double>::quiet_NaN();
            double c = 0.5 + 0.5 * random.number();
            if (k % 7 == 0) c = 1;
            if (kind == Kind::kNaNCenter && k == special) c = std::numeric_limits<double>::quiet_NaN();
            delta.data()[row * length + k] = narrow<T>(static_cast<A>(y));
            center.data()[row * length + k] = narrow<T>(static_cast<A>(c));
        }
        // From a small part of the norm to more than all of it.
        const double share = std::fabs(random.number());
        eps[row] =
            static_cast<A>(share * (kind == Kind::kTiny ? tiny : 1) * std::sqrt(static_cast<double>(length)));
        if (random.below(12) == 0) eps[row] = 0;
        if (kind == Kind::kInside) eps[row] = static_cast<A>(2 * length);
    }

    bool is_number(int64_t row) const {
        return kinds[row] != Kind::kNaN && (kinds[row] != Kind::kNaNCenter || !box.center);
    }

    template <template <typename> typename Ball>
    void run(Place place, const cuda::Device& device, Buffer<T>& out) const {
        cuda::project_ball<Ball, T>({delta.data(),
                                     box.center ? center.data() : nullptr,
                                     {eps.data(), 1},
                                     box.lo,
                                     box.hi,
                                     rows,
                                     length,
                                     out.data()},
                                    "a projection", place, device, nullptr);
    }

    template <template <typename> typename Ball>
    void check(const std::vector<Way>& ways) const {
        Buffer<T> expected(rows * length, offset);
        run<Ball>(Place::kAny, cuda::Device::current(), expected);
        CHECK(expected.guards_kept());
        for (const Way& way : ways) {
            Buffer<T> out(rows * length, offset);
            run<Ball>(way.place, way.device, out);
            CHECK_THAT(std::memcmp(out.data(), expected.data(), sizeof(T) * rows * length) == 0,
                       "[%lld, %lld] in place %d", (long long)rows, (long long)length, int(way.place));
            CHECK(out.guards_kept());
        }
        // Code for an older architecture, which knows no clusters, on a GPU that has them.
        Buffer<T> out(rows * length, offset);
        setenv("INTEGRALROB_SIMT_PTX", "80", 1);
        run<Ball>(Place::kAny, cuda::Device::current(), out);
        unsetenv("INTEGRALROB_SIMT_PTX");
        CHECK(std::memcmp(out.data(), expected.data(), sizeof(T) * rows * length) == 0);
        for (int64_t row = 0; row < rows; ++row) check_row<Ball>(row, expected.data() + row * length);
    }

    template <template <typename> typename Ball>
    void check_row(int64_t row, const T* out) const {
        constexpr bool kL1 = std::is_same_v<Ball<A>, cuda::L1Ball<A>>;
        const auto where = [&] {
            return std::string(kL1 ? "l1" : "l2") + " of " + std::to_string(sizeof(T)) + " bytes, length " +
                   std::to_string(length) + ", kind " + std::to_string(int(kinds[row])) + ", eps " +
                   std::to_string(eps[row]) + ", center " + std::to_string(box.center);
        };
        if (!is_number(row)) {
            for (int64_t k = 0; k < length; ++k) CHECK_THAT(std::isnan(widen(out[k])), "%s", where().c_str());
            return;
        }
        const T* y = delta.data() + row * length;
        const T* c = center.data() + row * length;
        std::vector<Real> a(length), b(length);
        for (int64_t k = 0; k < length; ++k) {
            const A x = widen(y[k]), room = x > 0 ? box.hi - A(widen(c[k])) : A(widen(c[k])) - box.lo;
            a[k] = std::min<Real>(std::fabs(Real(x)), std::numeric_limits<A>::max());
            b[k] = box.center ? std::min<Real>(std::max<Real>(room, 0), eps[row]) : Real(eps[row]);
        }
        const Real radius = eps[row];
        const auto norm = [&](const auto& of) {
            Real sum = 0;
            for (int64_t k = 0; k < length; ++k)
                sum +=
                    kL1 ? of(k)
                        : of(k) / std::max<Real>(radius, 1e-300L) * (of(k) / std::max<Real>(radius, 1e-300L));
            return kL1 ? sum : std::sqrt(sum) * radius;
        };
        const Real found = norm([&](int64_t k) { return std::fabs(Real(widen(out[k]))); });
        const A next = std::nextafter(eps[row], std::numeric_limits<A>::infinity());
        CHECK_THAT(found <= next, "%s: norm %Lg more than eps, relatively", where().c_str(),
                   found / radius - 1);

        // Inside for `inside`, outside for `outside`: the search goes on among the breakpoints between them.
        const auto shrunk = [&](Real x, int64_t k) {
            return kL1 ? std::min(std::max<Real>(a[k] - x, 0), b[k]) : std::min(x * a[k], b[k]);
        };
        const auto is_inside = [&](Real x) {
            return norm([&](int64_t k) { return shrunk(x, k); }) <= radius;
        };
        Real x = kL1 ? 0 : 1;
        if (!is_inside(x)) {
            std::vector<Real> points = {kL1 ? *std::max_element(a.begin(), a.end()) : 0, x};
            for (int64_t k = 0; k < length; ++k) {
                if (kL1) {
                    points.push_back(a[k]);
                    if (a[k] > b[k]) points.push_back(a[k] - b[k]);
                } else if (a[k] > b[k]) {
                    points.push_back(b[k] / a[k]);
                }
            }
            std::sort(points.begin(), points.end());
            if (kL1) std::reverse(points.begin(), points.end());  // from the inside to the outside
            const auto last = std::partition_point(points.begin(), points.end(), is_inside);
            const Real inside = *(last - 1), middle = (inside + *last) / 2;
            // Between these two every entry is either free or not.
            Real fixed = 0, sum = 0;
            int64_t free = 0;
            for (int64_t k = 0; k < length; ++k) {
                const Real m = shrunk(middle, k);
                if (m > 0 && m < b[k]) {
                    ++free;
                    sum += kL1 ? a[k] : (a[k] * middle / radius) * (a[k] * middle / radius);
                } else {
                    fixed += kL1 ? m : (m / radius) * (m / radius);
                }
            }
            x = kL1 ? (sum + fixed - radius) / free : middle * std::sqrt((1 - fixed) / sum);
            // Not further in than `inside`, where rounding leaves nothing for the free entries.
            x = free == 0 ? inside : kL1 ? std::min(x, inside) : std::max(x, inside);
        }
        const double rounding = sizeof(A) == 4 ? 0x1p-24 : 0x1p-53;
        const Real tolerance = 64 * rounding * radius +
                               (kL1 ? 64 * x * (sizeof(A) == 4 ? 0x1p-46 : 0x1p-53) : 0) +
                               (sizeof(T) == 2 ? Real(0x1p-24) : std::numeric_limits<A>::denorm_min());
        for (int64_t k = 0; k < length; ++k) {
            const Real expected = shrunk(x, k), got = widen(out[k]);
            CHECK_THAT(std::fabs(std::fabs(got) - expected) <= tolerance + kStorageRounding<T> * expected &&
                           std::signbit(got) == std::signbit(widen(y[k])) && std::fabs(got) <= b[k],
                       "%s: element %lld: %Lg from %g, not %Lg", where().c_str(), (long long)k, got,
                       double(widen(y[k])), expected);
        }
        if (kinds[row] == Kind::kInside && !box.center) {
            CHECK_THAT(std::memcmp(out, y, sizeof(T) * length) == 0, "%s", where().c_str());
        }
    }
};

// A grid of fewer blocks than rows goes around more than once.
template <typename T>
void check_small_grid(expect::Random& random) {
    using Task = cuda::Projection<T, cuda::L1Ball>;
    using Row = typename Task::Row;
    using Registers = cuda::InRegisters<Row, cuda::kPiecesOfThread<Row>>;
    const Case<T> batch(random, 9, 40, 0, {true, 0, 1}, 0);
    Buffer<T> expected(batch.rows * batch.length, 0), out(batch.rows * batch.length, 0);
    batch.template run<cuda::L1Ball>(Place::kAny, kH200, expected);
    const Task task{batch.delta.data(), batch.center.data(), {batch.eps.data(), 1}, 0, 1, batch.rows,
                    batch.length,       out.data()};
    const auto check = [&]<typename Team, typename Entries>(int blocks, int cluster) {
        std::fill(out.data(), out.data() + batch.rows * batch.length, T{});
        cuda::launch(cuda::for_rows<Team, Entries, Task>,
                     {.blocks = blocks,
                      .threads = Team::kThreads,
                      .shared_bytes = Team::kSharedBytes + Team::kRowsOfBlock * Task::kScratch,
                      .cluster = cluster},
                     nullptr, task);
        CHECK(std::memcmp(out.data(), expected.data(), sizeof(T) * batch.rows * batch.length) == 0);
    };
    check.template operator()<cuda::WarpTeam<128>, Registers>(1, 1);
    check.template operator()<cuda::BlockTeam<128, false>, Registers>(2, 1);
    check.template operator()<cuda::BlockTeam<512, true>, cuda::InDeviceMemory<Row>>(4, 2);
}

template <typename T>
void check_type(uint64_t seed) {
    using A = arithmetic_t<T>;
    simt::set_seed(seed);
    expect::Random random;
    const A infinity = std::numeric_limits<A>::infinity();
    const Box<A> boxes[] = {{false, 0, 0}, {true, 0, 1}, {true, A(-0.25), infinity}};
    int64_t cases = static_cast<int64_t>(seed);
    const auto check = [&](int64_t rows, int64_t length, int offset, const std::vector<Way>& ways) {
        const Case<T> batch(random, rows, length, offset, boxes[cases % 3],
                            static_cast<int>(cases % int(Kind::kKinds)));
        batch.template check<cuda::L1Ball>(ways);
        batch.template check<cuda::L2Ball>(ways);
        ++cases;
    };
    for (int64_t length = 1; length <= 70; ++length) check(length % 7 == 0 ? 5 : 1, length, 0, {});
    for (int round = 0; round < 3; ++round) {
        for (const int64_t length : {1, 2, 5, 16, 33, 70})
            check(int64_t(Kind::kKinds), length, round, kShort);
    }
    check(3, 300, 1, kAll);
    const int64_t warp = 32 * cuda::kPiecesOfThread<typename cuda::Projection<T, cuda::L1Ball>::Row> *
                         cuda::kLanes<T>,
                  block = 4 * warp;
    for (const int64_t length : {warp - 1, warp}) check(4, length, 0, kShort);
    check(5, warp + 1, 0, kMiddle);
    check(2, block, 0, kMiddle);
    check(1, block + 1, 0, kLong);
    check(2, 3072, 0, {});
    check(1, 10000, 0, kLong);
    check_small_grid<T>(random);
    if (sizeof(T) == 4 && seed == 0) check(1, 150528, 0, {{Place::kDeviceMemory, kH200}});
}

}  // namespace

int main() {
    for (const uint64_t seed : {0, 1, 2}) {
        check_type<float>(seed);
        check_type<double>(seed);
        check_type<Half>(seed);
        check_type<BFloat16>(seed);
    }
    return expect::summary();
}
