#!/bin/sh
# Guest job: compiles the agent with the guest's own compiler.
make -C /job/source -j"$(nproc)" CC=gcc build/firkin-agent
cp /job/source/build/firkin-agent /outbox/
