// Vectors of one register, rows of them, and scratch memory, for the filter kernels.
//
// Compiled once per instruction set: everything lives in that set's own namespace (an inner one, so that no name
// here can meet one of the sampler's), and nothing of the standard library
// that could be instantiated out of line is used here, because the linker keeps one copy of such a function and might
// keep the one that only the newest processors can run.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "threads.hpp"
#include "types.hpp"

#if defined(__GNUC__)
#define KERAMORPH_RESTRICT __restrict__
#define KERAMORPH_INLINE inline __attribute__((always_inline))
#define KERAMORPH_INDEPENDENT _Pragma("GCC ivdep")
#define KERAMORPH_PREFETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define KERAMORPH_RESTRICT __restrict
#define KERAMORPH_INLINE __forceinline
#define KERAMORPH_INDEPENDENT
#define KERAMORPH_PREFETCH(address) (void)(address)
#endif

namespace keramorph::KERAMORPH_INSTRUCTIONS::filters {

#if defined(__AVX512F__)
constexpr int lane_bytes = 64;
#elif defined(__AVX2__)
constexpr int lane_bytes = 32;
#else
constexpr int lane_bytes = 16;
#endif

template <class T>
constexpr int lanes = lane_bytes / static_cast<int>(sizeof(T));

#if defined(__GNUC__)
// The compiler's own vectors: SSE, AVX or NEON as the flags say. The second type of each pair reads unaligned memory.
template <class T>
struct PackOf;
template <>
struct PackOf<float> {
  typedef float type __attribute__((vector_size(lane_bytes)));
  typedef float loose __attribute__((vector_size(lane_bytes), aligned(4), may_alias));
};
template <>
struct PackOf<double> {
  typedef double type __attribute__((vector_size(lane_bytes)));
  typedef double loose __attribute__((vector_size(lane_bytes), aligned(8), may_alias));
};
template <class T>
using Pack = typename PackOf<T>::type;

template <class V, class T>
KERAMORPH_INLINE V load(const T* memory) {
  if constexpr (sizeof(V) == sizeof(T)) {
    return *memory;
  } else {
    return *reinterpret_cast<const typename PackOf<T>::loose*>(memory);
  }
}

template <class V, class T>
KERAMORPH_INLINE void store(T* memory, V value) {
  if constexpr (sizeof(V) == sizeof(T)) {
    *memory = value;
  } else {
    *reinterpret_cast<typename PackOf<T>::loose*>(memory) = value;
  }
}
#else
template <class T>
struct Pack {
  T lane[lanes<T>];
};
template <class T>
KERAMORPH_INLINE Pack<T> operator+(Pack<T> a, const Pack<T>& b) {
  for (int i = 0; i < lanes<T>; ++i) a.lane[i] += b.lane[i];
  return a;
}
template <class T>
KERAMORPH_INLINE Pack<T> operator-(Pack<T> a, const Pack<T>& b) {
  for (int i = 0; i < lanes<T>; ++i) a.lane[i] -= b.lane[i];
  return a;
}
template <class T>
KERAMORPH_INLINE Pack<T> operator*(Pack<T> a, const Pack<T>& b) {
  for (int i = 0; i < lanes<T>; ++i) a.lane[i] *= b.lane[i];
  return a;
}
template <class T>
KERAMORPH_INLINE Pack<T> operator*(Pack<T> a, T b) {
  for (int i = 0; i < lanes<T>; ++i) a.lane[i] *= b;
  return a;
}

template <class V, class T>
KERAMORPH_INLINE V load(const T* memory) {
  if constexpr (sizeof(V) == sizeof(T)) {
    return *memory;
  } else {
    V value;
    for (int i = 0; i < lanes<T>; ++i) value.lane[i] = memory[i];
    return value;
  }
}

template <class V, class T>
KERAMORPH_INLINE void store(T* memory, V value) {
  if constexpr (sizeof(V) == sizeof(T)) {
    *memory = value;
  } else {
    for (int i = 0; i < lanes<T>; ++i) memory[i] = value.lane[i];
  }
}
#endif

// Call body.template at<V>(i) for steps that cover 0 .. count with `Steps` registers at a time. The last step overlaps
// the one before: a body must write what depends on its input alone, to memory that it does not read.
template <class T, class Body>
KERAMORPH_INLINE void cover(std::int64_t count, const Body& body) {
  constexpr std::int64_t wide = lanes<T>;
  if (count < wide) {
    for (std::int64_t i = 0; i < count; ++i) body.template at<T>(i);
    return;
  }
  for (std::int64_t i = 0; i + wide <= count; i += wide) body.template at<Pack<T>>(i);
  if (count % wide != 0) body.template at<Pack<T>>(count - wide);
}

KERAMORPH_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
KERAMORPH_INLINE std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// Elements, rounded up to whole cache lines.
template <class T>
KERAMORPH_INLINE std::int64_t padded(std::int64_t count) {
  constexpr std::int64_t line = 64 / sizeof(T);
  return (count + line - 1) / line * line;
}

KERAMORPH_INLINE bool is_empty(const Volume& volume) {
  std::int64_t count = volume.batch * volume.channels;
  for (int d = 0; d < volume.ndim; ++d) count *= volume.size[d];
  return count == 0;
}

// The sizes of a volume as three axes, leading ones of size 1 where it has fewer.
KERAMORPH_INLINE void spread_axes(const Volume& volume, std::int64_t (&count)[3]) {
  for (int d = 0; d < 3; ++d) count[d] = d < 3 - volume.ndim ? 1 : volume.size[d - (3 - volume.ndim)];
}

// Memory that starts at a cache line, uninitialised.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t bytes) { grow(bytes); }
  ~Buffer() { std::free(block_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void grow(std::int64_t bytes) {
    if (block_ != nullptr) return;
    // A ring of rows touches more small pages at once than the processor remembers: whole large pages are worth it.
    const bool large = bytes >= large_page / 4;
    const std::int64_t align = large ? large_page : 64;
    // Two of them at least, because fewer are not asked for; what is not touched costs nothing.
    const std::int64_t whole = most((bytes + align - 1) / align * align, large ? 2 * large_page : 0);
    block_ = std::malloc(static_cast<std::size_t>(whole + align));
    if (block_ == nullptr) throw std::bad_alloc();
    const auto address = reinterpret_cast<std::uintptr_t>(block_);
    start_ = reinterpret_cast<void*>((address + static_cast<std::uintptr_t>(align) - 1) / align * align);
    if (large) touch_lightly(start_, whole);
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(start_);
  }

 private:
  static constexpr std::int64_t large_page = std::int64_t{1} << 21;
  void *block_ = nullptr, *start_ = nullptr;
};

// Scratch as large as an image that is kept for the next call: to get and clear fresh pages takes the system as long as
// the kernel takes to fill them. In between, the system may have the pages back if memory gets scarce.
class Lasting {
 public:
  explicit Lasting(std::int64_t bytes) {
    if (bytes == 0) return;
    block_ = kept().exchange(nullptr);
    if (block_ != nullptr && (block_->bytes < bytes || block_->bytes > 4 * bytes)) {
      delete block_;
      block_ = nullptr;
    }
    if (block_ == nullptr) block_ = new Block{bytes, {}};
    try {
      block_->buffer.grow(bytes);
    } catch (...) {
      delete block_;
      throw;
    }
  }
  ~Lasting() {
    if (block_ == nullptr) return;
    Block* other = block_;
    if (block_->bytes <= most_kept) {
#if defined(__linux__) && defined(MADV_FREE)
      constexpr std::int64_t page = std::int64_t{1} << 16;
      if (block_->bytes >= page) madvise(block_->buffer.as<char>(), block_->bytes / page * page, MADV_FREE);
#endif
      other = kept().exchange(block_);
    }
    delete other;
  }
  Lasting(const Lasting&) = delete;
  Lasting& operator=(const Lasting&) = delete;

  template <class T>
  T* as() const {
    return block_ == nullptr ? nullptr : block_->buffer.as<T>();
  }

 private:
  static constexpr std::int64_t most_kept = std::int64_t{1} << 28;
  struct Block {
    std::int64_t bytes;
    Buffer buffer;
  };
  static std::atomic<Block*>& kept() {
    static std::atomic<Block*> block{nullptr};
    return block;
  }
  Block* block_ = nullptr;
};

// One buffer for each thread at work: fresh memory costs a fault per page, so that ranges hand theirs on.
class Workspaces {
 public:
  explicit Workspaces(std::int64_t bytes) : bytes_(bytes), count_(threads() + 1), slots_(new Slot[count_]) {}
  ~Workspaces() { delete[] slots_; }
  Workspaces(const Workspaces&) = delete;
  Workspaces& operator=(const Workspaces&) = delete;

 private:
  struct Slot {
    std::atomic<bool> busy{false};
    Buffer buffer;
  };

 public:
  // One of the buffers, held by a range while it works.
  class Lease {
   public:
    explicit Lease(Workspaces& all) : slot_(all.take()) { slot_->buffer.grow(all.bytes_); }
    ~Lease() { slot_->busy.store(false); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    template <class T>
    T* as() const {
      return slot_->buffer.template as<T>();
    }

   private:
    Slot* slot_;
  };

 private:
  Slot* take() {
    for (;;) {
      for (int k = 0; k < count_; ++k) {
        if (!slots_[k].busy.exchange(true)) return &slots_[k];
      }
    }
  }

  std::int64_t bytes_;
  int count_;
  Slot* slots_;
};

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS::filters
