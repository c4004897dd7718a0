# Finds LibTorch 2.11 and defines
#   Abacus::torch        the CPU half (libtorch_cpu, libc10) with its headers
#   Abacus::torch_cuda   the same plus libtorch_cuda, libc10_cuda and the CUDA runtime; only with ABACUS_TORCH_CUDA
#   ABACUS_TORCH_CUDA    TRUE when ABACUS_WITH_CUDA is on, this LibTorch has CUDA and a matching toolkit is installed
#
# The targets are made here, from the folder of LibTorch, rather than by LibTorch's own TorchConfig.cmake: the one in
# the CUDA wheel stops with an error on a machine without the CUDA toolkit, where the CPU half builds all the same.
#
# Searched in this order: Torch_DIR (.../share/cmake/Torch), CMAKE_PREFIX_PATH, then the `torch` package of the Python
# interpreter ABACUS_PYTHON (default: python3).
include_guard(GLOBAL)

set(ABACUS_TORCH_VERSION 2.11)
set(ABACUS_PYTHON python3 CACHE STRING "Python interpreter whose torch package provides LibTorch")

set(torch_root "")
if(Torch_DIR)
  get_filename_component(torch_root ${Torch_DIR}/../../.. ABSOLUTE)
else()
  find_path(ABACUS_TORCH_PREFIX share/cmake/Torch/TorchConfig.cmake)
  if(ABACUS_TORCH_PREFIX)
    set(torch_root ${ABACUS_TORCH_PREFIX})
  else()
    execute_process(
      COMMAND ${ABACUS_PYTHON} -c
        "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE torch_root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()

set(torch_version_file ${torch_root}/include/torch/headeronly/version.h)
if(NOT torch_root OR NOT EXISTS ${torch_root}/lib/libtorch_cpu.so)
  message(FATAL_ERROR
    "LibTorch ${ABACUS_TORCH_VERSION} was not found (looked in '${torch_root}'). Install it with\n"
    "  python3 -m venv venv && venv/bin/pip install torch==${ABACUS_TORCH_VERSION}.*\n"
    "and pass -DABACUS_PYTHON=$PWD/venv/bin/python (or -DTorch_DIR=<libtorch>/share/cmake/Torch),\n"
    "or build without real models: -DABACUS_WITH_TORCH=OFF.")
endif()
set(torch_found_version "unknown")
if(EXISTS ${torch_version_file})
  file(STRINGS ${torch_version_file} torch_version_line REGEX "^ *\"[0-9]+\\.[0-9]+\\.[0-9]+")
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" torch_found_version "${torch_version_line}")
endif()
if(NOT torch_found_version MATCHES "^2\\.11\\.")
  message(FATAL_ERROR
    "LibTorch in ${torch_root} has version ${torch_found_version}; Abacus is written for ${ABACUS_TORCH_VERSION}. "
    "Point -DABACUS_PYTHON or -DTorch_DIR at that version: pip install torch==${ABACUS_TORCH_VERSION}.*")
endif()
message(STATUS "LibTorch ${torch_found_version}: ${torch_root}")

# abacus_torch_library(TARGET FILE): an imported shared library of LibTorch.
function(abacus_torch_library target file)
  add_library(${target} SHARED IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES IMPORTED_LOCATION ${torch_root}/lib/${file})
endfunction()

abacus_torch_library(Abacus::c10 libc10.so)
abacus_torch_library(Abacus::torch_cpu libtorch_cpu.so)
add_library(Abacus::torch INTERFACE IMPORTED GLOBAL)
target_include_directories(Abacus::torch SYSTEM INTERFACE
  ${torch_root}/include ${torch_root}/include/torch/csrc/api/include)
# ATen's headers then include the operators that they use, not all of them.
target_compile_definitions(Abacus::torch INTERFACE AT_PER_OPERATOR_HEADERS)
target_link_libraries(Abacus::torch INTERFACE Abacus::torch_cpu Abacus::c10 Threads::Threads)
# The libraries of the wheel find what they need by themselves at run time. Programs carry LibTorch's folder as a
# RUNPATH, which the dynamic linker searches after LD_LIBRARY_PATH: they run with a LibTorch in another place too.
target_link_options(Abacus::torch INTERFACE "LINKER:--allow-shlib-undefined" "LINKER:--enable-new-dtags")

set(ABACUS_TORCH_CUDA FALSE)
if(ABACUS_WITH_CUDA AND EXISTS ${torch_root}/lib/libtorch_cuda.so)
  find_package(CUDAToolkit QUIET)
  # The major version of CUDA that this LibTorch was built with, as named by the CUDA runtime that it loads.
  file(STRINGS ${torch_root}/lib/libc10_cuda.so torch_cudart REGEX "libcudart\\.so\\.[0-9]+" LIMIT_COUNT 1)
  string(REGEX MATCH "libcudart\\.so\\.([0-9]+)" torch_cudart "${torch_cudart}")
  set(torch_cuda_major ${CMAKE_MATCH_1})
  if(NOT CUDAToolkit_FOUND)
    message(STATUS "CUDA runtime: not built, no CUDA toolkit found (workers will run on the CPU)")
  elseif(NOT CUDAToolkit_VERSION_MAJOR EQUAL torch_cuda_major)
    message(WARNING "CUDA runtime: not built. LibTorch was built with CUDA ${torch_cuda_major}, the toolkit found is "
                    "${CUDAToolkit_VERSION} in ${CUDAToolkit_BIN_DIR}. Install a matching one, or set "
                    "-DCUDAToolkit_ROOT.")
  else()
    set(ABACUS_TORCH_CUDA TRUE)
    abacus_torch_library(Abacus::c10_cuda libc10_cuda.so)
    abacus_torch_library(Abacus::torch_cuda_library libtorch_cuda.so)
    add_library(Abacus::torch_cuda INTERFACE IMPORTED GLOBAL)
    target_link_libraries(Abacus::torch_cuda INTERFACE
      Abacus::torch_cuda_library Abacus::c10_cuda Abacus::torch CUDA::cudart)
    message(STATUS "CUDA runtime: built with CUDA ${CUDAToolkit_VERSION}")
  endif()
else()
  message(STATUS "CUDA runtime: not built (ABACUS_WITH_CUDA=${ABACUS_WITH_CUDA}, or LibTorch has no CUDA)")
endif()
