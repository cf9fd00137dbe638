// Messages to TensorRT's logger: a sentence for every refusal.
#pragma once

#include <exception>
#include <string>

#include <NvInferRuntime.h>

namespace segc {

void set_logger_finder(nvinfer1::ILoggerFinder* finder);

// Log an error; to stderr where TensorRT has given no logger.
void report(std::string const& sentence);

// Run ``body``; whatever it throws becomes a message and ``failure``: no exception leaves the library.
template <typename Result, typename Body>
Result guarded(char const* where, Result failure, Body body) noexcept {
    try {
        return body();
    } catch (std::exception const& error) {
        report(std::string(where) + ": " + error.what());
    } catch (...) {
        report(std::string(where) + ": unknown error");
    }
    return failure;
}

}  // namespace segc
