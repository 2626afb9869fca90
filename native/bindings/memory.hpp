// Memory for outputs, recycled: the first touch of fresh memory costs more than most kernels.
#pragma once

#include <cstdint>

namespace keramorph {

// A piece of memory that goes back to a small pool when it dies, for the next output of about its size. Thread-safe,
// and safe to use in a forked child.
class Memory {
 public:
  // Throws std::bad_alloc where the system has no more.
  explicit Memory(std::int64_t bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }

 private:
  void* data_;
  std::int64_t bytes_, capacity_;
};

// Bytes that wait in the pool, and how to hand them back to the system.
std::int64_t waiting_bytes();
void release_memory();

}  // namespace keramorph
