// The emulator: what it offers works as on a device, and what it is there to find is found.
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "expect.h"

namespace cg = cooperative_groups;

namespace {

struct Shape {
    dim3 grid, block;
    size_t shared_bytes = 0;
    dim3 cluster = {};
};

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const Shape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {shape.cluster.x, shape.cluster.y, shape.cluster.z};
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// The message of the exception that the launch throws.
template <typename... Parameters, typename... Arguments>
std::string failure(const Shape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
    try {
        launch(shape, kernel, std::forward<Arguments>(arguments)...);
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "no failure";
}

void check_tells(const std::string& message, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) {
        CHECK_THAT(message.find(part) != std::string::npos, "no \"%s\" in: %s", part.c_str(),
                   message.c_str());
    }
}

constexpr int kSeeds = 16;

// How many different results the seeds give.
template <typename T>
size_t results(const std::function<std::vector<T>()>& run) {
    std::set<std::vector<T>> different;
    for (int seed = 0; seed < kSeeds; ++seed) {
        simt::set_seed(seed);
        const std::vector<T> first = run();
        CHECK(first == run());  // the same seed, the same result
        different.insert(first);
    }
    simt::set_seed(0);
    return different.size();
}

template <typename T>
__device__ T* dynamic_shared() {
    return static_cast<T*>(simt::dynamic_shared_memory());
}

__device__ unsigned thread_rank() { return cg::this_thread_block().thread_rank(); }

// --------------------------------------------------------------------------------------- grids and arguments

struct Indices {
    unsigned values[12];
};

__global__ void write_indices(Indices* out) {
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread_rank()] = {
        {threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z, blockDim.x, blockDim.y,
         blockDim.z, gridDim.x, gridDim.y, gridDim.z}};
}

void test_indices() {
    const dim3 grid(3, 2, 2), block(5, 3, 2);
    std::vector<Indices> out(12 * 30, Indices{});
    CHECK(launch({grid, block}, write_indices, out.data()) == cudaSuccess);
    size_t k = 0;
    for (unsigned bz = 0; bz < grid.z; ++bz)
        for (unsigned by = 0; by < grid.y; ++by)
            for (unsigned bx = 0; bx < grid.x; ++bx)
                for (unsigned tz = 0; tz < block.z; ++tz)
                    for (unsigned ty = 0; ty < block.y; ++ty)
                        for (unsigned tx = 0; tx < block.x; ++tx, ++k) {
                            const Indices expected = {{tx, ty, tz, bx, by, bz, 5, 3, 2, 3, 2, 2}};
                            CHECK(std::equal(expected.values, expected.values + 12, out[k].values));
                        }
}

__global__ void count_calls(unsigned long long* out) { atomicAdd(out, 1); }

void test_large_grid() {
    unsigned long long calls = 0;
    CHECK(launch({{10007, 2, 3}, 1}, count_calls, &calls) == cudaSuccess);
    CHECK(calls == 60042);
    calls = 0;
    CHECK(launch({1, 1024}, count_calls, &calls) == cudaSuccess);
    CHECK(calls == 1024);
}

struct Pair {
    double a;
    int64_t b;
};

__global__ void change_arguments(Pair pair, int64_t number, double* out) {
    pair.a += number++;
    pair.b += number;
    out[threadIdx.x] = pair.a + static_cast<double>(pair.b);
}

void test_arguments() {
    std::vector<double> out(64);
    const int number = 3;
    CHECK(launch({1, 64}, change_arguments, Pair{0.5, 10}, number, out.data()) == cudaSuccess);
    for (const double x : out) CHECK(x == 0.5 + 3 + 10 + 4);
}

__constant__ float factors[2] = {2.0f, 3.0f};

__device__ __noinline__ float scaled(float x, int k) { return factors[k] * x; }
__host__ __device__ __forceinline__ float plus_one(float x) { return x + 1; }

// What may be said of kernels and functions.
__global__ void __launch_bounds__(64, 2)
    decorated(const float* __restrict__ in, const __grid_constant__ Pair pair, float* __restrict__ out) {
    const cg::thread_block block = cg::this_thread_block();
    const unsigned k = block.thread_rank() + block.num_threads() * block.group_index().x;
    out[k] = plus_one(scaled(in[k], block.thread_index().x % 2)) + static_cast<float>(pair.b);
    __threadfence_block();
    __threadfence();
    __threadfence_system();
}

void test_decorations() {
    std::vector<float> in(128), out(128);
    for (int k = 0; k < 128; ++k) in[k] = static_cast<float>(k);
    CHECK(launch({2, 64}, decorated, in.data(), Pair{0, 7}, out.data()) == cudaSuccess);
    for (int k = 0; k < 128; ++k) CHECK(out[k] == static_cast<float>(k * (2 + k % 2) + 8));
}

// -------------------------------------------------------------------------------- shared memory and barriers

template <typename T, int N>
__global__ void reverse_static(const T* in, T* out) {
    __shared__ T row[N];
    __shared__ __align__(32) T other[2][N];
    row[threadIdx.x] = in[blockIdx.x * N + threadIdx.x];
    other[1][threadIdx.x] = T(1);
    __syncthreads();
    const int from = N - 1 - static_cast<int>(threadIdx.x);
    out[blockIdx.x * N + threadIdx.x] = row[from] + other[1][from];
}

__global__ void reverse_dynamic(const int* in, int* out) {
    int* const row = dynamic_shared<int>();
    row[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = row[blockDim.x - 1 - threadIdx.x] + 1;
}

// What all threads of a block get, in a function that kernels share.
__device__ inline int largest(int x) {
    __shared__ int of_block;
    if (threadIdx.x == 0) of_block = x;
    __syncthreads();
    atomicMax(&of_block, x);
    __syncthreads();
    const int result = of_block;
    __syncthreads();
    return result;
}

__global__ void write_largest(const int* in, int* out) {
    const int once = largest(in[threadIdx.x]);
    out[threadIdx.x] = once + 1000 * largest(-in[threadIdx.x]);
}

template <typename T, int N>
void test_reverse(void (*kernel)(const T*, T*), size_t shared_bytes) {
    std::vector<T> in(4 * N), out(4 * N);
    for (int k = 0; k < 4 * N; ++k) in[k] = static_cast<T>(k);
    CHECK(launch({4, N, shared_bytes}, kernel, in.data(), out.data()) == cudaSuccess);
    for (int k = 0; k < 4 * N; ++k) CHECK(out[k] == static_cast<T>(k / N * N + N - 1 - k % N + 1));
}

void test_shared_memory() {
    test_reverse<float, 32>(reverse_static<float, 32>, 0);
    test_reverse<float, 96>(reverse_static<float, 96>, 0);
    test_reverse<double, 50>(reverse_static<double, 50>, 0);
    test_reverse<int64_t, 1024>(reverse_static<int64_t, 1024>, 0);
    test_reverse<int, 32>(reverse_dynamic, 32 * sizeof(int));

    std::vector<int> in(70), out(70);
    for (int k = 0; k < 70; ++k) in[k] = (k * 37) % 70;
    CHECK(launch({1, 70}, write_largest, in.data(), out.data()) == cudaSuccess);
    for (const int x : out) CHECK(x == 69);
}

__global__ void write_alignment(uintptr_t* out) {
    *out = reinterpret_cast<uintptr_t>(dynamic_shared<char>());
}

void test_alignment() {
    uintptr_t address = 1;
    for (const size_t bytes : {0, 1, 4, 100, 49152}) {
        CHECK(launch({1, 1, bytes}, write_alignment, &address) == cudaSuccess);
        CHECK(address % 128 == 0);
    }
}

__global__ void vote(int positive, int* out) {
    const int mine = static_cast<int>(threadIdx.x) < positive ? 5 : 0;
    const int count = __syncthreads_count(mine), any = __syncthreads_or(mine), all = __syncthreads_and(mine);
    cg::this_thread_block().sync();
    out[threadIdx.x] = count * 100 + any * 10 + all;
}

void test_votes() {
    std::vector<int> out(40);
    for (const int positive : {0, 1, 39, 40}) {
        CHECK(launch({1, 40}, vote, positive, out.data()) == cudaSuccess);
        for (const int x : out) CHECK(x == positive * 100 + (positive > 0) * 10 + (positive == 40));
    }
}

// ------------------------------------------------------------------------------------------ warp collectives

template <typename T>
__global__ void shuffle(T* out, int width) {
    const T mine = static_cast<T>(100 + threadIdx.x);
    const unsigned all = 0xffffffffu;
    T* const row = out + 6 * threadIdx.x;
    row[0] = __shfl_sync(all, mine, 3, width);
    row[1] = __shfl_up_sync(all, mine, 2, width);
    row[2] = __shfl_down_sync(all, mine, 5, width);
    row[3] = __shfl_xor_sync(all, mine, 4, width);
    row[4] = __shfl_sync(all, mine, static_cast<int>(threadIdx.x) + 1, width);
    row[5] = __shfl_xor_sync(all, mine, 8, width);
}

template <typename T>
void test_shuffle() {
    std::vector<T> out(6 * 64);
    for (const int width : {8, 16, 32}) {
        CHECK(launch({1, 64}, shuffle<T>, out.data(), width) == cudaSuccess);
        for (int k = 0; k < 64; ++k) {
            const int first = k / width * width, lane = k % width;
            const int from[] = {first + 3, lane >= 2 ? k - 2 : k,      lane + 5 < width ? k + 5 : k,
                                k ^ 4,     first + (lane + 1) % width, (k ^ 8) < first + width ? k ^ 8 : k};
            for (int j = 0; j < 6; ++j) CHECK(out[6 * k + j] == static_cast<T>(100 + from[j]));
        }
    }
}

__global__ void ask_warp(unsigned* out) {
    const unsigned lane = threadIdx.x % 32, all = 0xffffffffu;
    unsigned* const row = out + 11 * threadIdx.x;
    row[0] = __ballot_sync(all, lane % 3 == 0);
    row[1] = __any_sync(all, lane == 7) + 2 * __any_sync(all, 0);
    row[2] = __all_sync(all, 1) + 2 * __all_sync(all, lane != 7);
    row[3] = __match_any_sync(all, lane % 4 * 0.5);
    row[4] = __reduce_add_sync(all, lane);
    row[5] = __reduce_add_sync(all, -static_cast<int>(lane));
    row[6] = __reduce_min_sync(all, static_cast<int>(lane) - 5);
    row[7] = __reduce_max_sync(all, static_cast<int>(lane) - 40);
    row[8] = __reduce_min_sync(all, lane - 5);
    row[9] = __reduce_max_sync(all, lane - 5);
    row[10] = __activemask() >> lane & 1;
    __syncwarp();
}

void test_warp() {
    std::vector<unsigned> out(11 * 64);
    CHECK(launch({1, 64}, ask_warp, out.data()) == cudaSuccess);
    for (unsigned k = 0; k < 64; ++k) {
        const unsigned expected[] = {0x49249249u, 1,   1, 0x11111111u << k % 4, 496, -496u, -5u, -9u,
                                     0,           -1u, 1};
        for (int j = 0; j < 11; ++j) {
            CHECK_THAT(out[11 * k + j] == expected[j], "thread %u, %d: %x", k, j, out[11 * k + j]);
        }
    }
}

// The halves of a warp go different ways, one of them divides again; the last warp is not full.
__global__ void divide(int* out) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    int result;
    if (lane < 16) {
        result = __shfl_xor_sync(0xffffu, lane, 1);
        if (lane < 2) result += 100 * __shfl_sync(3u, lane, 1);
        __syncwarp(0xffffu);
        result += __popc(__ballot_sync(0xffffu, 1)) * 1000;
    } else {
        result = static_cast<int>(__reduce_add_sync(0xffff0000u, 1u));
    }
    out[threadIdx.x] = result;
}

void test_divided_warp() {
    std::vector<int> out(56);
    CHECK(launch({1, 56}, divide, out.data()) == cudaSuccess);
    for (int k = 0; k < 56; ++k) {
        const int lane = k % 32;
        CHECK(out[k] == (lane >= 16 ? (k < 32 ? 16 : 8) : (lane ^ 1) + (lane < 2 ? 100 : 0) + 16000));
    }
}

// ---------------------------------------------------------------------------------------- atomics, functions

struct Counters {
    int sum = 0, least = 100, most = -100, bits = 0, kept = 0xff, last = -1, locked = 0;
    unsigned wrapped = 0;
    unsigned long long large = 0;
    float halves = 0;
    double quarters = 0;
};

__global__ void count(Counters* c) {
    const int k = static_cast<int>(threadIdx.x);
    atomicAdd(&c->sum, k);
    atomicMin(&c->least, k - 5);
    atomicMax(&c->most, k);
    atomicOr(&c->bits, 1 << k % 8);
    atomicAnd(&c->kept, ~(1 << k % 4));
    atomicExch(&c->last, k);
    atomicAdd(&c->wrapped, 0x80000000u);
    atomicAdd(&c->large, 1ull << 40);
    atomicAdd(&c->halves, 0.5f);
    atomicAdd(&c->quarters, 0.25);
    for (int old = c->locked, seen;; old = seen) {
        seen = atomicCAS(&c->locked, old, old + 2);
        if (seen == old) break;
    }
}

void test_atomics() {
    Counters c;
    CHECK(launch({1, 41}, count, &c) == cudaSuccess);
    CHECK(c.sum == 820 && c.least == -5 && c.most == 40 && c.bits == 0xff && c.kept == 0xf0);
    CHECK(c.last >= 0 && c.last <= 40 && c.locked == 82);
    CHECK(c.wrapped == 0x80000000u && c.large == 41ull << 40 && c.halves == 20.5f && c.quarters == 10.25);
}

void test_functions() {
    CHECK(__popc(0xf0f0u) == 8 && __popcll(~0ull) == 64 && __clz(1) == 31 && __clz(0) == 32 &&
          __clzll(1) == 63);
    CHECK(__ffs(0) == 0 && __ffs(8) == 4 && __ffsll(1ll << 40) == 41);
    CHECK(__float_as_int(-0.0f) == INT32_MIN && __int_as_float(0x3f800000) == 1.0f);
    CHECK(__float_as_uint(2.0f) == 0x40000000u && __uint_as_float(0x40000000u) == 2.0f);
    CHECK(__double_as_longlong(1.0) == 0x3ff0000000000000 && __longlong_as_double(0x3ff0000000000000) == 1.0);
    const float third = 1.0f / 3.0f;
    CHECK(__fmaf_rn(third, 3.0f, -1.0f) == std::fma(third, 3.0f, -1.0f) &&
          __fmaf_rn(third, 3.0f, -1.0f) != 0);
    CHECK(__fadd_rn(__fmul_rn(third, 3.0f), -1.0f) == 0 && __fdiv_rn(1, 4) == 0.25f && __fsqrt_rn(9) == 3);
    CHECK(rsqrtf(4) == 0.5f && rsqrt(0.25) == 2);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK(::min(3, 2) == 2 && ::max(2.5f, 3.0) == 3.0 && ::max(-1, 1u) == 0xffffffffu &&
          ::min(nan, 1.0f) == 1 && ::max(1.0f, nan) == 1);
    int64_t numbers[] = {7, 8};
    __stcs(numbers, 9);
    __stcg(numbers + 1, 10);
    CHECK(__ldg(numbers) == 9 && __ldcs(numbers + 1) == 10 && __ldcg(numbers) == 9);
}

static_assert(alignof(float2) == 8 && alignof(float3) == 4 && alignof(float4) == 16 && sizeof(float3) == 12);
static_assert(alignof(double2) == 16 && alignof(longlong2) == 16 && alignof(ulonglong2) == 16);
static_assert(alignof(uchar4) == 4 && alignof(char2) == 2 && alignof(ushort4) == 8 && alignof(uint3) == 4);
static_assert(alignof(int2) == 8 && alignof(int4) == 16 && alignof(uint4) == 16 && sizeof(double4) == 32);

// Every half: the value, and back; halfway between neighbours to the even one.
template <typename T>
void test_half(int mantissa_bits, float (*widen)(T), T (*narrow)(float), T (*make)(unsigned short),
               unsigned short (*bits_of)(T)) {
    const int bias = (1 << (14 - mantissa_bits)) - 1, mantissas = 1 << mantissa_bits;
    const int infinity = 0x7fff & ~(mantissas - 1);
    const auto value = [&](int bits) {
        const int exponent = bits >> mantissa_bits, mantissa = bits & (mantissas - 1);
        return exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                             : std::ldexp(mantissas + mantissa, exponent - bias - mantissa_bits);
    };
    for (int bits = 0; bits < infinity; ++bits) {
        const float x = widen(make(static_cast<unsigned short>(bits)));
        CHECK(x == value(bits) && bits_of(narrow(x)) == bits && bits_of(narrow(-x)) == (bits | 0x8000));
        const float halfway = static_cast<float>((value(bits) + value(bits + 1)) / 2);
        if (std::isfinite(halfway)) CHECK(bits_of(narrow(halfway)) == bits + bits % 2);
    }
    CHECK(std::isinf(widen(make(static_cast<unsigned short>(infinity)))));
    CHECK(std::isnan(widen(narrow(std::numeric_limits<float>::quiet_NaN()))));
}

void test_halves() {
    test_half<__half>(10, __half2float, __float2half_rn, __ushort_as_half, __half_as_ushort);
    test_half<__nv_bfloat16>(7, __bfloat162float, __float2bfloat16_rn, __ushort_as_bfloat16,
                             __bfloat16_as_ushort);
}

// -------------------------------------------------------------------------------------------------- clusters

// Each block writes its number to the shared memory of the next one in the cluster, reads that of the one
// after, and tells its rank.
__global__ void pass_on(int* out) {
    __shared__ int written[64], own[64];
    int* const dynamic = dynamic_shared<int>();
    const auto cluster = cg::this_cluster();
    const unsigned rank = cluster.block_rank(), blocks = cluster.num_blocks(), t = threadIdx.x;
    const int number = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
    own[t] = number;
    dynamic[t] = 1000 * number;
    cluster.sync();
    cluster.map_shared_rank(written, (rank + 1) % blocks)[t] = number;
    cluster.map_shared_rank(dynamic + 64, (rank + 1) % blocks)[t] = number;
    const int sum = *cluster.map_shared_rank(own + t, (rank + 2) % blocks) +
                    *cluster.map_shared_rank(dynamic + t, (rank + 2) % blocks);
    cluster.sync();
    const unsigned k = number * 64 + t;
    out[4 * k] = written[t];
    out[4 * k + 1] = dynamic[64 + t];
    out[4 * k + 2] = sum;
    out[4 * k + 3] = static_cast<int>(rank);
    CHECK(cluster.map_shared_rank(own, rank) == own);
    CHECK(cluster.thread_rank() == rank * 64 + t && cluster.num_threads() == blocks * 64);
}

void test_cluster(dim3 grid, dim3 cluster) {
    const unsigned count = grid.x * grid.y * grid.z, blocks = cluster.x * cluster.y * cluster.z;
    std::vector<int> out(4 * 64 * count);
    CHECK(launch({grid, 64, 128 * sizeof(int), cluster}, pass_on, out.data()) == cudaSuccess);
    // The block of rank `rank` in the cluster that block `k` is in.
    const auto block_of_rank = [&](unsigned k, unsigned rank) {
        const unsigned x = k % grid.x / cluster.x * cluster.x + rank % cluster.x;
        const unsigned y = k / grid.x % grid.y / cluster.y * cluster.y + rank / cluster.x % cluster.y;
        const unsigned z = k / grid.x / grid.y / cluster.z * cluster.z + rank / cluster.x / cluster.y;
        return static_cast<int>(x + grid.x * (y + grid.y * z));
    };
    for (unsigned k = 0; k < count; ++k) {
        const unsigned rank =
            k % grid.x % cluster.x +
            cluster.x * (k / grid.x % grid.y % cluster.y + cluster.y * (k / grid.x / grid.y % cluster.z));
        const int previous = block_of_rank(k, (rank + blocks - 1) % blocks);
        const int after_next = block_of_rank(k, (rank + 2) % blocks);
        for (unsigned t = 0; t < 64; ++t) {
            const int* const row = &out[4 * (k * 64 + t)];
            CHECK(row[0] == previous && row[1] == previous && row[2] == 1001 * after_next);
            CHECK(row[3] == static_cast<int>(rank));
        }
    }
}

__global__ void sum_cluster(int* out) {
    __shared__ int sum;
    const auto cluster = cg::this_cluster();
    if (threadIdx.x == 0) sum = 0;
    cluster.sync();
    atomicAdd(cluster.map_shared_rank(&sum, 0), 1);
    cluster.sync();
    if (cluster.thread_rank() == 0) *out = sum;
}

void test_clusters() {
    for (int seed = 0; seed < kSeeds; ++seed) {
        simt::set_seed(seed);
        test_cluster(6, 1);
        test_cluster(6, 2);
        test_cluster(16, 8);
        test_cluster({4, 6, 2}, {2, 3, 1});
        test_cluster({2, 2, 4}, {1, 2, 2});
    }
    simt::set_seed(0);
    int sum = 0;
    CHECK(cudaFuncSetAttribute(sum_cluster, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) ==
          cudaSuccess);
    CHECK(launch({16, 1024, 0, 16}, sum_cluster, &sum) == cudaSuccess);
    CHECK(sum == 16384);
}

// ---------------------------------------------------------------------------------------- limits of a launch

__global__ void nothing() {}
__global__ void nothing_else() {}

void test_limits() {
    CHECK(launch({0, 1}, nothing) == cudaErrorInvalidConfiguration);
    CHECK(cudaPeekAtLastError() == cudaErrorInvalidConfiguration);
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess);
    for (const Shape& wrong : std::vector<Shape>{{1, 0},
                                                 {1, 1025},
                                                 {1, {32, 33}},
                                                 {1, {1, 1, 65}},
                                                 {{1, 65536}, 1},
                                                 {{1, 1, 65536}, 1},
                                                 {0x80000000u, 1},
                                                 {6, 1, 0, 4},
                                                 {{2, 3}, 1, 0, {1, 2}}}) {
        CHECK(launch(wrong, nothing) == cudaErrorInvalidConfiguration);
    }
    CHECK(launch({16, 1, 0, 16}, nothing) == cudaErrorInvalidClusterSize);
    CHECK(launch({16, 1, 0, 0}, nothing) == cudaErrorInvalidClusterSize);
    CHECK(cudaFuncSetAttribute(nothing, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess);
    CHECK(launch({16, 1, 0, 16}, nothing) == cudaSuccess);
    CHECK(launch({32, 1, 0, 32}, nothing) == cudaErrorInvalidClusterSize);
    CHECK(launch({16, 1, 0, 16}, nothing_else) == cudaErrorInvalidClusterSize);

    CHECK(launch({1, 1, 48 << 10}, nothing) == cudaSuccess);
    CHECK(launch({1, 1, (48 << 10) + 1}, nothing) == cudaErrorInvalidValue);
    const cudaFuncAttribute shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
    CHECK(cudaFuncSetAttribute(nothing, shared, 100000) == cudaSuccess);
    CHECK(launch({1, 1, 100000}, nothing) == cudaSuccess);
    CHECK(launch({1, 1, 100001}, nothing) == cudaErrorInvalidValue);
    CHECK(launch({1, 1, 100000}, nothing_else) == cudaErrorInvalidValue);
    CHECK(cudaFuncSetAttribute(nothing, shared, 232448) == cudaSuccess);
    CHECK(cudaFuncSetAttribute(nothing, shared, 232449) == cudaErrorInvalidValue);
    CHECK(launch({1, 1}, static_cast<void (*)()>(nullptr)) == cudaErrorInvalidDeviceFunction);
    CHECK(std::string(cudaGetErrorName(cudaErrorInvalidValue)) == "cudaErrorInvalidValue");
    CHECK(std::string(cudaGetErrorString(cudaErrorInvalidValue)) == "invalid argument");
    cudaGetLastError();
}

void test_device() {
    const auto ask = [](cudaDeviceAttr attribute) {
        int value = 0;
        CHECK(cudaDeviceGetAttribute(&value, attribute, 0) == cudaSuccess);
        return value;
    };
    int device = -1, blocks = 0;
    CHECK(cudaGetDevice(&device) == cudaSuccess && device == 0);
    CHECK(ask(cudaDevAttrComputeCapabilityMajor) == 9 && ask(cudaDevAttrComputeCapabilityMinor) == 0);
    CHECK(ask(cudaDevAttrMaxSharedMemoryPerBlockOptin) == 232448 &&
          ask(cudaDevAttrMultiProcessorCount) == 132);
    setenv("INTEGRALROB_SIMT_MULTIPROCESSORS", "3", 1);
    CHECK(ask(cudaDevAttrMultiProcessorCount) == 3);
    unsetenv("INTEGRALROB_SIMT_MULTIPROCESSORS");
    const auto resident = [&](int threads, size_t bytes) {
        CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, threads, bytes) == cudaSuccess);
        return blocks;
    };
    CHECK(resident(256, 0) == 8 && resident(32, 0) == 32 && resident(1000, 0) == 2 &&
          resident(64, 100000) == 2);
}

// -------------------------------------------------------------------------- planted: threads that never come

__global__ void barrier_in_branch() {
    if (threadIdx.x < 7) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}
__global__ void barrier_after_return() {
    if (threadIdx.x == 5) return;
    __syncthreads();
}
__global__ void barrier_for_some() {
    if (threadIdx.x < 7) __syncthreads();
}
__global__ void barrier_against_shuffle() {
    if (threadIdx.x == 0) {
        __syncthreads();
    } else {
        __shfl_sync(0xffffffffu, 0, 0);
    }
}
__global__ void shuffle_without_one() {
    if (threadIdx.x != 5) __shfl_down_sync(0xffffffffu, 0, 1);
}
__global__ void shuffle_without_me() { __shfl_xor_sync(1u << (threadIdx.x ^ 1), 0, 1); }
__global__ void masks_differ() { __syncwarp(threadIdx.x < 16 ? 0xffffffffu : 0xffff8000u); }
__global__ void other_collective() {
    if (threadIdx.x < 16) {
        __any_sync(0xffffffffu, 1);
    } else {
        __all_sync(0xffffffffu, 1);
    }
}
__global__ void cluster_without_one() {
    if (blockIdx.x == 1 && threadIdx.x == 2) return;
    cg::this_cluster().sync();
}
__global__ void cluster_against_block() {
    if (blockIdx.x == 1) __syncthreads();
    cg::this_cluster().sync();
    if (blockIdx.x == 0) cg::this_cluster().sync();
}
__global__ void cluster_in_branch() {
    if (blockIdx.x == 0) {
        cg::this_cluster().sync();
    } else {
        cg::this_cluster().sync();
    }
}
__global__ void map_outside(int* out) { *out = *cg::this_cluster().map_shared_rank(out, 0); }
__global__ void map_beyond() {
    __shared__ int x;
    x = 0;
    *cg::this_cluster().map_shared_rank(&x, 2) = 1;
}
__global__ void throws() {
    __syncthreads();
    if (threadIdx.x == 3) throw std::runtime_error("thrown in a kernel");
    __syncthreads();
}

void test_hangs() {
    std::vector<int> numbers(2);
    for (int seed = 0; seed < kSeeds; ++seed) {
        simt::set_seed(seed);
        check_tells(
            failure({1, 64}, barrier_in_branch),
            {"kernel (anonymous namespace)::barrier_in_branch(), block (0, 0, 0), thread (",
             "wait at different barriers", "in __syncthreads", "test_simt.cpp:", "barrier_in_branch"});
        check_tells(failure({{3, 2}, 64}, barrier_after_return),
                    {"never come", "63 threads", "in __syncthreads", "barrier_after_return",
                     "first (5, 0, 0), returned"});
        check_tells(failure({1, 64}, barrier_for_some),
                    {"7 threads of block (0, 0, 0), first (0, 0, 0), in __sync", "57 threads",
                     "first (7, 0, 0), returned"});
        check_tells(
            failure({1, 32}, barrier_against_shuffle),
            {"1 thread of", "in __syncthreads", "31 threads", "in __shfl_sync, warp 0, mask 0xffffffff"});
        check_tells(
            failure({1, 64}, shuffle_without_one),
            {"never come", "in __shfl_down_sync", "first (5, 0, 0), returned", "shuffle_without_one"});
        check_tells(failure({1, 32}, shuffle_without_me), {"not in the mask", "__shfl_xor_sync"});
        check_tells(failure({1, 32}, masks_differ), {"mask 0xffffffff", "mask 0xffff8000"});
        check_tells(failure({1, 32}, other_collective), {"__any_sync", "__all_sync"});
        check_tells(
            failure({2, 32, 0, 2}, cluster_without_one),
            {"never come", "in cluster.sync", "1 thread of block (1, 0, 0), first (2, 0, 0), returned"});
        check_tells(failure({2, 32, 0, 2}, cluster_against_block),
                    {"cluster.sync", "32 threads of block (0, 0, 0)"});
        check_tells(failure({2, 32, 0, 2}, cluster_in_branch),
                    {"threads of a cluster wait at different barriers"});
        check_tells(failure({2, 1, 0, 2}, map_outside, numbers.data()),
                    {"not an address in the block's own shared"});
        check_tells(failure({2, 1, 0, 2}, map_beyond), {"no block of this rank"});
        check_tells(failure({2, 32}, throws), {"thrown in a kernel"});
        // Later launches find everything in order.
        test_votes();
    }
    simt::set_seed(0);
}

// ------------------------------------------------------------------- planted: results that the order decides

// Without the barrier a thread may read before its neighbour has written.
template <bool kRight>
__global__ void neighbour(int* out) {
    int* const shared = dynamic_shared<int>();
    shared[threadIdx.x] = 0;
    __syncthreads();
    shared[threadIdx.x] = static_cast<int>(threadIdx.x) + 1;
    if (kRight) __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x ^ 1];
}
// Without the second barrier a thread may write the next round's number before its neighbour has read.
template <bool kRight>
__global__ void rounds(int* out) {
    __shared__ int shared[32];
    int sum = 0;
    for (int round = 0; round < 3; ++round) {
        shared[threadIdx.x] = 10 * round + static_cast<int>(threadIdx.x);
        __syncthreads();
        sum += shared[(threadIdx.x + 1) % 32];
        if (kRight) __syncthreads();
    }
    out[threadIdx.x] = sum;
}
// A barrier of each warp does not keep the warps together.
__global__ void barrier_of_warp(int* out) {
    int* const shared = dynamic_shared<int>();
    shared[threadIdx.x] = 0;
    __syncthreads();
    shared[threadIdx.x] = static_cast<int>(threadIdx.x) + 1;
    __syncwarp();
    out[threadIdx.x] = shared[(threadIdx.x + 32) % blockDim.x];
}
__global__ void read_then_write(int* out) {
    const int old = out[0];
    __syncwarp();
    out[0] = old + 1;
}
// Other threads may come in at the atomic.
__global__ void read_atomic_write(int* out) {
    const int old = out[0];
    atomicAdd(out + 1, 1);
    out[0] = old + 1;
}
// Differs only if the warps do not keep step: the first has more to wait for.
__global__ void slow_warp(int* out) {
    __shared__ int slow_is_done;
    slow_is_done = 0;
    __syncthreads();
    for (int k = 0; k < (threadIdx.x < 32 ? 8 : 1); ++k) __syncwarp();
    if (threadIdx.x == 0) slow_is_done = 1;
    if (threadIdx.x == 32) out[0] = slow_is_done;
}
__global__ void order_of_atomics(int* out) { out[atomicAdd(out + 32, 1)] = static_cast<int>(threadIdx.x); }
__global__ void order_of_blocks(unsigned* out) { out[0] = 31 * out[0] + blockIdx.x; }
__global__ void float_sum(float* out) { atomicAdd(out, 1.0f / static_cast<float>(threadIdx.x + 1)); }
// Reads a block's shared memory when that block may have ended.
template <bool kRight>
__global__ void other_is_gone(int* out) {
    __shared__ int mine;
    const auto cluster = cg::this_cluster();
    mine = 5;
    cluster.sync();
    out[blockIdx.x] = *cluster.map_shared_rank(&mine, cluster.block_rank() ^ 1);
    if (kRight) cluster.sync();
}

template <typename T>
size_t results_of(void (*kernel)(T*), const Shape& shape) {
    return results<T>([&] {
        std::vector<T> out(64);
        CHECK(launch(shape, kernel, out.data()) == cudaSuccess);
        return out;
    });
}

void test_races() {
    CHECK(results_of(neighbour<true>, {1, 32, 256}) == 1);
    CHECK(results_of(neighbour<false>, {1, 32, 256}) > kSeeds / 2);
    CHECK(results_of(rounds<true>, {1, 32}) == 1);
    CHECK(results_of(rounds<false>, {1, 32}) > kSeeds / 2);
    CHECK(results_of(barrier_of_warp, {1, 64, 256}) > 1);
    CHECK(results_of(read_then_write, {1, 256}) > 1);
    CHECK(results_of(read_atomic_write, {1, 64}) > 1);
    CHECK(results_of(slow_warp, {1, 64}) > 1);
    CHECK(results_of(order_of_atomics, {1, 32}) > kSeeds / 2);
    CHECK(results_of(order_of_blocks, {50, 1}) > kSeeds / 2);
    CHECK(results_of(float_sum, {1, 64}) > 1);
    CHECK(results_of(other_is_gone<true>, {2, 1, 0, 2}) == 1);
    CHECK(results_of(other_is_gone<false>, {2, 1, 0, 2}) > 1);
}

// ------------------------------------------------------------------ planted: numbers that nobody has written

__global__ void uninitialised_dynamic(int* out) { out[blockIdx.x] = dynamic_shared<int>()[2]; }
__global__ void uninitialised_static(int* out) {
    __shared__ int never_written[3];
    out[blockIdx.x] = never_written[blockIdx.x % 3];
}
__global__ void written_by_other_blocks(int* out) {
    __shared__ int written[3];
    out[blockIdx.x] = written[blockIdx.x % 3];
    written[blockIdx.x % 3] = 5;
}
template <typename T, int N>
__global__ void uninitialised_in_template(int* out) {
    __shared__ T never_written[N][N];
    out[blockIdx.x] = static_cast<int>(never_written[N - 1][blockIdx.x % N]);
}
// The lanes of the other half take no part.
__global__ void shuffle_from_absent(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, 7, 16);
}

void test_garbage() {
    CHECK(results_of(uninitialised_dynamic, {8, 1, 12}) == kSeeds);
    CHECK(results_of(uninitialised_dynamic, {8, 1, 12, 2}) == kSeeds);
    CHECK(results_of(uninitialised_static, {8, 1}) == kSeeds);
    CHECK(results_of(uninitialised_static, {8, 1, 0, 2}) == kSeeds);
    CHECK(results_of(shuffle_from_absent, {1, 32}) == kSeeds);

    CHECK(results_of(written_by_other_blocks, {8, 1}) == kSeeds);
    // Another garbage for each block, in every variable.
    for (void (*const kernel)(int*) :
         {uninitialised_dynamic, uninitialised_static, written_by_other_blocks,
          uninitialised_in_template<int, 2>, uninitialised_in_template<unsigned, 7>}) {
        std::vector<int> out(8);
        CHECK(launch({8, 1, 12}, kernel, out.data()) == cudaSuccess);
        CHECK(std::set<int>(out.begin(), out.end()).size() == 8);
    }
}

void test_seed_of_environment() {
    std::vector<int> first(8), second(8), third(8);
    const auto run = [](const char* seed, std::vector<int>& out) {
        setenv("INTEGRALROB_SIMT_SEED", seed, 1);
        launch({8, 1, 12}, uninitialised_dynamic, out.data());
    };
    run("1", first);
    run("2", second);
    run("1", third);
    unsetenv("INTEGRALROB_SIMT_SEED");
    CHECK(first == third && first != second);
}

// ------------------------------------------------------------------------------------------- several threads

void test_launches_of_many_threads() {
    std::vector<std::thread> threads;
    for (int k = 0; k < 4; ++k) {
        threads.emplace_back([] {
            for (int repeat = 0; repeat < 50; ++repeat) test_reverse<float, 96>(reverse_static<float, 96>, 0);
        });
    }
    for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main() {
    test_seed_of_environment();  // before a seed is set
    test_indices();
    test_large_grid();
    test_arguments();
    test_decorations();
    test_shared_memory();
    test_alignment();
    test_votes();
    test_shuffle<int>();
    test_shuffle<unsigned>();
    test_shuffle<float>();
    test_shuffle<double>();
    test_shuffle<int64_t>();
    test_warp();
    test_divided_warp();
    test_atomics();
    test_functions();
    test_halves();
    test_clusters();
    test_limits();
    test_device();
    test_hangs();
    test_races();
    test_garbage();
    test_launches_of_many_threads();
    return expect::summary();
}
