// The launch helper: what it enqueues, and what it says when it cannot.
#include <string>

#include "common/launch.cuh"
#include "expect.h"

using namespace integralrob::cuda;

namespace {

__global__ void count_threads(int* count) { atomicAdd(count, 1); }

std::string error_of(const Launch& shape) {
    int count = 0;
    try {
        launch(count_threads, shape, nullptr, &count);
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "";
}

void check_count(const Launch& shape, int expected) {
    int count = 0;
    launch(count_threads, shape, nullptr, &count);
    CHECK_THAT(count == expected, "%d threads, not %d", count, expected);
}

}  // namespace

int main() {
    check_count({.blocks = 0, .threads = 32}, 0);
    check_count({.blocks = 3, .threads = 40}, 120);
    check_count({.blocks = 4, .threads = 32, .shared_bytes = 100 << 10, .cluster = 2}, 128);
    check_count({.blocks = 16, .threads = 32, .cluster = 16}, 512);

    CHECK(has_room(count_threads, {.blocks = 16, .threads = 32, .shared_bytes = 200 << 10, .cluster = 16}));
    CHECK(!has_room(count_threads, {.blocks = 32, .threads = 32, .cluster = 32}));
    CHECK(knows_clusters(count_threads));
    setenv("INTEGRALROB_SIMT_PTX", "80", 1);
    CHECK(!knows_clusters(count_threads));
    unsetenv("INTEGRALROB_SIMT_PTX");
    CHECK(cudaPeekAtLastError() == cudaSuccess);

    const std::string message = error_of({.blocks = 5, .threads = 4096, .purpose = "a test"});
    for (const char* part :
         {"a test", "5 blocks", "4096 threads", cudaGetErrorString(cudaErrorInvalidConfiguration)}) {
        CHECK_THAT(message.find(part) != std::string::npos, "\"%s\" lacks \"%s\"", message.c_str(), part);
    }
    CHECK(cudaPeekAtLastError() == cudaSuccess);  // an error that was thrown is not left for others to find
    CHECK(!error_of({.blocks = 1, .threads = 32, .shared_bytes = 1 << 20}).empty());
    CHECK(!error_of({.blocks = 3, .threads = 32, .cluster = 2}).empty());
    return expect::summary();
}
