#include "memory.hpp"

#include <deque>
#include <mutex>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "threads.hpp"

namespace keramorph {
namespace {

// An iteration of the solver has about as many outputs alive in turn; more would only hoard.
constexpr std::size_t most_buffers = 12;
constexpr std::int64_t most_bytes = std::int64_t{512} << 20;
// Of the system's large pages.
constexpr std::int64_t granule = std::int64_t{2} << 20;

struct Buffer {
  void* data;
  std::int64_t capacity;
};

void free_buffer(const Buffer& buffer) {
  ::operator delete(buffer.data, std::align_val_t{static_cast<std::size_t>(granule)});
}

// Leaked on purpose: arrays may die after the static destructors have run.
std::mutex* turn = new std::mutex;
std::deque<Buffer>* waiting = new std::deque<Buffer>;

void forget_lock_after_fork() { turn = new std::mutex; }

void watch_for_forks() {
#if defined(__unix__) || defined(__APPLE__)
  // Whoever held the lock does not exist in the child. The buffers do: they were copied.
  static const int hooked = pthread_atfork([] { turn->lock(); }, [] { turn->unlock(); }, forget_lock_after_fork);
  (void)hooked;
#endif
}

std::int64_t count_bytes() {
  std::int64_t total = 0;
  for (const Buffer& buffer : *waiting) total += buffer.capacity;
  return total;
}

// The smallest that is large enough, unless it wastes as much as it holds; otherwise fresh.
Buffer take(std::int64_t capacity) {
  watch_for_forks();
  {
    std::lock_guard<std::mutex> hold(*turn);
    auto best = waiting->end();
    for (auto each = waiting->begin(); each != waiting->end(); ++each) {
      const bool fits = each->capacity >= capacity && each->capacity / 2 < capacity;
      if (fits && (best == waiting->end() || each->capacity < best->capacity)) best = each;
    }
    if (best != waiting->end()) {
      const Buffer found = *best;
      waiting->erase(best);
      return found;
    }
  }
  const auto alignment = std::align_val_t{static_cast<std::size_t>(granule)};
  void* data = ::operator new(static_cast<std::size_t>(capacity), alignment);
  touch_lightly(data, capacity);
  return {data, capacity};
}

void give(Buffer buffer) {
  std::lock_guard<std::mutex> hold(*turn);
  waiting->push_back(buffer);
  while (waiting->size() > most_buffers || count_bytes() > most_bytes) {
    free_buffer(waiting->front());
    waiting->pop_front();
  }
}

}  // namespace

Memory::Memory(std::int64_t bytes) : bytes_(bytes) {
  const Buffer buffer = take((bytes + granule - 1) / granule * granule);
  data_ = buffer.data;
  capacity_ = buffer.capacity;
}

Memory::~Memory() { give({data_, capacity_}); }

std::int64_t waiting_bytes() {
  std::lock_guard<std::mutex> hold(*turn);
  return count_bytes();
}

void release_memory() {
  std::lock_guard<std::mutex> hold(*turn);
  for (const Buffer& buffer : *waiting) free_buffer(buffer);
  waiting->clear();
}

}  // namespace keramorph
