// A kernel in which half of a block waits for the other half for ever.
#include "portable.h"

struct Args {};

void broken_kernel(Args) {
    if (segc::thread_index() < 32) segc::sync_block();
}

int main() { return segc::launch(broken_kernel, 1, 1, 1, 64, 0, nullptr, Args{}); }
