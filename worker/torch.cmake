# abacus_torch_runtime: models through LibTorch, for the worker's main program and its tests. Its CUDA half is a module
# of its own, beside the programs, that runtime_factory.cc opens at run time when a GPU is asked for.
include(${CMAKE_SOURCE_DIR}/cmake/AbacusTorch.cmake)

set(worker_dir ${CMAKE_CURRENT_LIST_DIR})
add_library(abacus_torch_runtime STATIC
  ${worker_dir}/bucket_plan.cc ${worker_dir}/check.cc ${worker_dir}/cut_points.cc
  ${worker_dir}/graph_partition.cc ${worker_dir}/interpreter_runtime.cc ${worker_dir}/model_loader.cc
  ${worker_dir}/runtime_factory.cc ${worker_dir}/slice_tree.cc ${worker_dir}/torch_tensors.cc)
target_link_libraries(abacus_torch_runtime
  PUBLIC abacus_flags abacus_models CLI11::CLI11 Abacus::torch
  PRIVATE nlohmann_json::nlohmann_json ${CMAKE_DL_LIBS})

if(ABACUS_TORCH_CUDA)
  add_library(abacus_cuda_runtime MODULE
    ${worker_dir}/cut_points.cc ${worker_dir}/gpu_clock.cc ${worker_dir}/graph_runtime.cc
    ${worker_dir}/slice_tree.cc ${worker_dir}/sliced_graph.cc
    ${worker_dir}/topological_order.cc ${worker_dir}/torch_tensors.cc)
  target_link_libraries(abacus_cuda_runtime PRIVATE abacus_flags Abacus::torch_cuda)
  target_link_options(abacus_cuda_runtime PRIVATE "LINKER:--no-undefined")
  set_target_properties(abacus_cuda_runtime PROPERTIES
    CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
  add_dependencies(abacus_torch_runtime abacus_cuda_runtime)
endif()
