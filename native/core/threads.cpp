#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace keramorph {
namespace {

// One call of `parallel`: ranges are handed out by a counter.
struct Job {
  void (*work)(void*, std::int64_t, std::int64_t);
  void* context;
  std::int64_t count, grain;
  std::atomic<std::int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_lock;

  void run() {
    try {
      for (;;) {
        const std::int64_t first = next.fetch_add(grain);
        if (first >= count) return;
        work(context, first, std::min(first + grain, count));
      }
    } catch (...) {
      next.store(count);
      std::lock_guard<std::mutex> hold(failure_lock);
      if (!failure) failure = std::current_exception();
    }
  }
};

class Pool {
 public:
  explicit Pool(int helpers) {
    for (int k = 0; k < helpers; ++k) threads_.emplace_back([this] { serve(); });
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> hold(lock_);
      closing_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  int helpers() const { return static_cast<int>(threads_.size()); }

  void run(Job& job) {
    {
      std::lock_guard<std::mutex> hold(lock_);
      job_ = &job;
      ++generation_;
    }
    wake_.notify_all();
    job.run();
    std::unique_lock<std::mutex> hold(lock_);
    job_ = nullptr;  // who has not woken by now is too late, and need not be waited for
    done_.wait(hold, [this] { return busy_ == 0; });
  }

 private:
  void serve() {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> hold(lock_);
    for (;;) {
      wake_.wait(hold, [&] { return closing_ || (job_ != nullptr && generation_ != seen); });
      if (closing_) return;
      seen = generation_;
      Job* job = job_;
      ++busy_;
      hold.unlock();
      job->run();
      hold.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex lock_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  Job* job_ = nullptr;
  std::uint64_t generation_ = 0;
  int busy_ = 0;
  bool closing_ = false;
};

// Leaked on purpose: at exit, static destructors must not join threads that the system may have ended already.
std::mutex* turn = new std::mutex;
Pool* pool = nullptr;
std::atomic<int> wanted{0};

void forget_threads_after_fork() {
  // Only the forking thread lives on in the child: the pool's threads, and whoever held the lock, are gone.
  turn = new std::mutex;
  pool = nullptr;
}

}  // namespace

int threads() {
  const int count = wanted.load();
  return count > 0 ? count : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void set_threads(int count) { wanted.store(std::max(0, count)); }

void run_parallel(std::int64_t count, std::int64_t grain, void (*work)(void*, std::int64_t, std::int64_t),
                  void* context) {
  if (count <= 0) return;
  grain = std::max<std::int64_t>(1, grain);
  Job job{work, context, count, grain, {}, {}, {}};
  const int helpers = threads() - 1;
  std::unique_lock<std::mutex> mine;
  if (helpers > 0 && count > grain) mine = std::unique_lock<std::mutex>(*turn, std::try_to_lock);
  if (mine.owns_lock()) {
#if defined(__unix__) || defined(__APPLE__)
    static const int hooked = pthread_atfork(nullptr, nullptr, forget_threads_after_fork);
    (void)hooked;
#endif
    if (pool == nullptr || pool->helpers() != helpers) {
      delete pool;
      pool = nullptr;
      pool = new Pool(helpers);
    }
    pool->run(job);
  } else {
    job.run();
  }
  if (job.failure) std::rethrow_exception(job.failure);
}

void touch_lightly(void* memory, std::int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t page = std::uintptr_t{1} << 21;
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (address + page - 1) & ~(page - 1);
  const std::uintptr_t last = (address + static_cast<std::uintptr_t>(bytes)) & ~(page - 1);
  if (bytes >= static_cast<std::int64_t>(2 * page) && last > first) {
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: if it fails, nothing is lost
  }
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace keramorph
