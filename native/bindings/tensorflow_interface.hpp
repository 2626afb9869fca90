// The part of TensorFlow's C interface that the ops use: declared here, looked up in the running process.
//
// Only `tensorflow.cpp` includes this; everything is of internal linkage.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace {

using std::int64_t;

// Opaque to everybody but TensorFlow.
struct Status;
struct Tensor;
struct OpBuilder;
struct KernelBuilder;
struct Construction;
struct Context;
struct Inference;
struct Shape;

constexpr int invalid_argument = 3, internal = 13;  // TF_Code

// The functions used, each under the name it has behind `TF_`.
#define FUNCTIONS(F)                                                                                             \
  F(NewStatus, Status*, ())                                                                                      \
  F(DeleteStatus, void, (Status*))                                                                               \
  F(SetStatus, void, (Status*, int, const char*))                                                                \
  F(GetCode, int, (const Status*))                                                                               \
  F(Message, const char*, (const Status*))                                                                       \
  F(NewOpDefinitionBuilder, OpBuilder*, (const char*))                                                           \
  F(OpDefinitionBuilderAddAttr, void, (OpBuilder*, const char*))                                                 \
  F(OpDefinitionBuilderAddInput, void, (OpBuilder*, const char*))                                                \
  F(OpDefinitionBuilderAddOutput, void, (OpBuilder*, const char*))                                               \
  F(OpDefinitionBuilderSetShapeInferenceFunction, void, (OpBuilder*, void (*)(Inference*, Status*)))             \
  F(RegisterOpDefinition, void, (OpBuilder*, Status*))                                                           \
  F(NewKernelBuilder, KernelBuilder*,                                                                            \
    (const char*, const char*, void* (*)(Construction*), void (*)(void*, Context*), void (*)(void*)))            \
  F(RegisterKernelBuilder, void, (const char*, KernelBuilder*, Status*))                                         \
  F(OpKernelConstruction_GetAttrInt64, void, (Construction*, const char*, int64_t*, Status*))                    \
  F(OpKernelConstruction_GetAttrInt64List, void, (Construction*, const char*, int64_t*, int, Status*))           \
  F(OpKernelConstruction_GetAttrSize, void, (Construction*, const char*, std::int32_t*, std::int32_t*, Status*)) \
  F(OpKernelConstruction_Failure, void, (Construction*, Status*))                                                \
  F(OpKernelContext_Failure, void, (Context*, Status*))                                                          \
  F(GetInput, void, (Context*, int, Tensor**, Status*))                                                          \
  F(AllocateOutput, Tensor*, (Context*, int, int, const int64_t*, int, std::size_t, Status*))                    \
  F(DeleteTensor, void, (Tensor*))                                                                               \
  F(TensorType, int, (const Tensor*))                                                                            \
  F(NumDims, int, (const Tensor*))                                                                               \
  F(Dim, int64_t, (const Tensor*, int))                                                                          \
  F(TensorData, void*, (const Tensor*))                                                                          \
  F(NewShapeHandle, Shape*, ())                                                                                  \
  F(DeleteShapeHandle, void, (Shape*))                                                                           \
  F(ShapeInferenceContextGetInput, void, (Inference*, int, Shape*, Status*))                                     \
  F(ShapeInferenceContextSetOutput, void, (Inference*, int, Shape*, Status*))                                    \
  F(ShapeInferenceContextSubshape, void, (Inference*, Shape*, int64_t, int64_t, Shape*, Status*))                \
  F(ShapeInferenceContextConcatenateShapes, void, (Inference*, Shape*, Shape*, Shape*, Status*))                 \
  F(ShapeInferenceContextSetUnknownShape, void, (Inference*, Status*))

#define DECLARE(name, result, arguments) result(*name) arguments = nullptr;
struct Interface {
  FUNCTIONS(DECLARE)
} tf;
#undef DECLARE

std::string problem;  // why no ops are registered; empty if they are

bool find_functions() {
  // TensorFlow's own libraries are private to its Python module: they are found by name among those already loaded.
  std::vector<void*> libraries = {RTLD_DEFAULT};
  for (const char* name : {"libtensorflow_framework.so.2", "libtensorflow_framework.2.dylib", "libtensorflow_cc.so.2",
                           "libtensorflow_cc.2.dylib"}) {
    if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) libraries.push_back(library);
  }
  const auto find = [&](const char* name) -> void* {
    for (void* library : libraries) {
      if (void* found = dlsym(library, name)) return found;
    }
    problem = std::string("This TensorFlow does not offer ") + name + ".";
    return nullptr;
  };
#define FIND(name, result, arguments)                                       \
  tf.name = reinterpret_cast<result(*) arguments>(find("TF_" #name)); \
  if (tf.name == nullptr) return false;
  FUNCTIONS(FIND)
#undef FIND
  return true;
}

class OwnStatus {
 public:
  OwnStatus() : status_(tf.NewStatus()) {}
  ~OwnStatus() { tf.DeleteStatus(status_); }
  OwnStatus(const OwnStatus&) = delete;
  OwnStatus& operator=(const OwnStatus&) = delete;
  operator Status*() { return status_; }
  bool good() const { return tf.GetCode(status_) == 0; }

 private:
  Status* status_;
};

}  // namespace
