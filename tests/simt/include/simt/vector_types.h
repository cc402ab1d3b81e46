// CUDA's vector types, aligned as on the device.
#pragma once

#include <cstdint>

#define SIMT_VECTOR_1(name, type, alignment)       \
    struct alignas(alignment) name##1 { type x; }; \
    inline name##1 make_##name##1(type x) { return {x}; }
#define SIMT_VECTOR_2(name, type, alignment)          \
    struct alignas(alignment) name##2 { type x, y; }; \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }
#define SIMT_VECTOR_3(name, type)     \
    struct name##3 { type x, y, z; }; \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }
#define SIMT_VECTOR_4(name, type, alignment)                \
    struct alignas(alignment) name##4 { type x, y, z, w; }; \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
// Alignment: the size of the whole, at most 16 bytes.
#define SIMT_VECTORS(name, type, size)  \
    SIMT_VECTOR_1(name, type, size)     \
    SIMT_VECTOR_2(name, type, 2 * size) \
    SIMT_VECTOR_3(name, type)           \
    SIMT_VECTOR_4(name, type, (4 * size > 16 ? 16 : 4 * size))

SIMT_VECTORS(char, signed char, 1)
SIMT_VECTORS(uchar, unsigned char, 1)
SIMT_VECTORS(short, short, 2)
SIMT_VECTORS(ushort, unsigned short, 2)
SIMT_VECTORS(int, int, 4)
SIMT_VECTORS(uint, unsigned int, 4)
SIMT_VECTORS(float, float, 4)
SIMT_VECTORS(longlong, long long, 8)
SIMT_VECTORS(ulonglong, unsigned long long, 8)
SIMT_VECTORS(double, double, 8)
#undef SIMT_VECTORS
#undef SIMT_VECTOR_1
#undef SIMT_VECTOR_2
#undef SIMT_VECTOR_3
#undef SIMT_VECTOR_4

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};
