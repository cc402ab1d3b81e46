// Threads as the kernels are given them.
#pragma once

#include <cstdint>
#include <thread>
#include <vector>

struct Threads {
    static inline int count = 2;

    static void run(int64_t n, void (*body)(const void*, int64_t, int64_t), const void* context) {
        std::vector<std::thread> threads;
        for (int t = 0; t < count; ++t) {
            threads.emplace_back([=] { body(context, n * t / count, n * (t + 1) / count); });
        }
        for (std::thread& thread : threads) thread.join();
    }
};
