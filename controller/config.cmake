# abacus_config: the controller's configuration, apart so that tests and the fuzzer link it without sockets.
add_library(abacus_config STATIC ${CMAKE_CURRENT_LIST_DIR}/config.cc)
target_link_libraries(abacus_config PUBLIC abacus_flags abacus_models)
