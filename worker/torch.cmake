# abacus_torch_runtime: models through LibTorch, for the worker's main program and its tests. Its CUDA half is a module
# of its own, beside the programs, that runtime_factory.cc opens at run time when a GPU is asked for.
include(${CMAKE_SOURCE_DIR}/cmake/AbacusTorch.cmake)

set(worker_dir ${CMAKE_CURRENT_LIST_DIR})

# What both halves need, compiled once; position-independent, for the module.
add_library(abacus_torch_common OBJECT
  ${worker_dir}/cuts/cut_points.cc ${worker_dir}/cuts/slice_tree.cc
  ${worker_dir}/torch/job_rows.cc ${worker_dir}/torch/small_rows.cc ${worker_dir}/torch/torch_tensors.cc)
target_link_libraries(abacus_torch_common PUBLIC abacus_flags abacus_models Abacus::torch)
set_target_properties(abacus_torch_common PROPERTIES
  POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)

add_library(abacus_torch_runtime STATIC
  ${worker_dir}/app/bench.cc ${worker_dir}/app/cases.cc ${worker_dir}/app/check.cc ${worker_dir}/app/cut_checker.cc
  ${worker_dir}/app/index_trial.cc ${worker_dir}/app/model_bench.cc ${worker_dir}/app/output_difference.cc
  ${worker_dir}/app/runtime_factory.cc ${worker_dir}/app/verify.cc
  ${worker_dir}/cpu/graph_partition.cc ${worker_dir}/cpu/interpreter_runtime.cc
  ${worker_dir}/torch/bucket_plan.cc ${worker_dir}/torch/claim_check.cc ${worker_dir}/torch/graph_check.cc
  ${worker_dir}/torch/graph_digest.cc ${worker_dir}/torch/load_check.cc ${worker_dir}/torch/operator_libraries.cc
  ${worker_dir}/torch/torch_script_file.cc ${worker_dir}/torch/torch_script_program.cc
  $<TARGET_OBJECTS:abacus_torch_common>)
target_link_libraries(abacus_torch_runtime
  PUBLIC abacus_flags abacus_models Abacus::torch
  PRIVATE nlohmann_json::nlohmann_json ${CMAKE_DL_LIBS})

# Stands in for libtorch_python.so in workers (worker/torch/operator_libraries.h).
add_library(abacus_no_python MODULE ${worker_dir}/torch/no_python.cc)
target_link_libraries(abacus_no_python PRIVATE abacus_flags)
target_link_options(abacus_no_python PRIVATE "LINKER:-soname,libtorch_python.so")
set_target_properties(abacus_no_python PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
add_dependencies(abacus_torch_runtime abacus_no_python)

if(ABACUS_TORCH_CUDA)
  # From sources alone: the static libraries hold no position-independent code.
  add_library(abacus_cuda_runtime MODULE
    ${worker_dir}/cuda/bucket_memory.cc ${worker_dir}/cuda/cuda_module.cc ${worker_dir}/cuda/cut_timing.cc
    ${worker_dir}/cuda/gpu_clock.cc ${worker_dir}/cuda/gpu_device.cc ${worker_dir}/cuda/graph_capture.cc
    ${worker_dir}/cuda/graph_runtime.cc ${worker_dir}/cuda/job_staging.cc ${worker_dir}/cuda/pinned_memory.cc
    ${worker_dir}/cuda/sliced_graph.cc ${worker_dir}/cuda/synthetic_job.cc
    ${worker_dir}/cuts/topological_order.cc ${CMAKE_SOURCE_DIR}/models/tensor_layout.cc
    $<TARGET_OBJECTS:abacus_torch_common>)
  target_link_libraries(abacus_cuda_runtime PRIVATE abacus_flags Abacus::torch_cuda)
  target_link_options(abacus_cuda_runtime PRIVATE "LINKER:--no-undefined")
  set_target_properties(abacus_cuda_runtime PROPERTIES
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
  add_dependencies(abacus_torch_runtime abacus_cuda_runtime)
endif()
