// What Python asks of the CUDA library beside its ops (through ctypes).

// The architectures that the library holds code for: "sm_80 sm_90 compute_90".
extern "C" __attribute__((visibility("default"))) const char* integralrob_cuda_architectures() {
    return INTEGRALROB_CUDA_ARCHITECTURES;
}
