// Scratch memory of the kernels.
//
// Compiled once per instruction set, in that set's own namespace, and without the standard containers: the linker keeps
// one copy of a function that two objects share, and might keep the one that only the newest processors can run.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "threads.hpp"

namespace keramorph::KERAMORPH_INSTRUCTIONS {

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
    std::int64_t whole = (bytes + align - 1) / align * align;
    if (large && whole < 2 * large_page) whole = 2 * large_page;
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

}  // namespace keramorph::KERAMORPH_INSTRUCTIONS
