// libabacus_no_python.so, known to the dynamic linker as libtorch_python.so: see operator_libraries.h.
