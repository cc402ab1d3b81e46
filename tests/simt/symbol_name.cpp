#include "symbol_name.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <link.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

namespace simt {
namespace {

template <typename T>
std::vector<T> read(std::ifstream& file, uint64_t offset, uint64_t bytes) {
    std::vector<T> result(bytes / sizeof(T));
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(reinterpret_cast<char*>(result.data()),
              static_cast<std::streamsize>(result.size() * sizeof(T)));
    return result;
}

// Empty if the file has no symbol there.
std::string look_up(const char* path, uintptr_t address) {
    std::ifstream file(path, std::ios::binary);
    const ElfW(Ehdr) header = read<ElfW(Ehdr)>(file, 0, sizeof(ElfW(Ehdr)))[0];
    const auto sections = read<ElfW(Shdr)>(file, header.e_shoff, header.e_shnum * sizeof(ElfW(Shdr)));
    if (!file) return {};
    for (const ElfW(Shdr) & section : sections) {
        if (section.sh_type != SHT_SYMTAB) continue;
        const ElfW(Shdr) & strings = sections[section.sh_link];
        const auto names = read<char>(file, strings.sh_offset, strings.sh_size);
        for (const ElfW(Sym) & symbol : read<ElfW(Sym)>(file, section.sh_offset, section.sh_size)) {
            const bool is_function = ELF64_ST_TYPE(symbol.st_info) == STT_FUNC;
            if (is_function && address - symbol.st_value < symbol.st_size) return &names[symbol.st_name];
        }
    }
    return {};
}

}  // namespace

std::string symbol_name(const void* function) {
    Dl_info info;
    link_map* map = nullptr;
    void** const where = reinterpret_cast<void**>(&map);
    if (dladdr1(function, &info, where, RTLD_DL_LINKMAP) == 0) return "of unknown name";
    const uintptr_t offset = reinterpret_cast<uintptr_t>(function) - map->l_addr;
    // The name of the executable itself is empty.
    const std::string name = look_up(map->l_name[0] == '\0' ? "/proc/self/exe" : map->l_name, offset);
    if (name.empty()) {
        std::ostringstream place;
        place << info.dli_fname << "+0x" << std::hex << offset;
        return place.str();
    }
    int status;
    char* const demangled = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
    const std::string result = demangled != nullptr ? demangled : name;
    std::free(demangled);
    return result;
}

}  // namespace simt
