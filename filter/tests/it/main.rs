//! Tests of the gate through its public door: requests, messages of control and ticks in; verdicts and effects out.

mod admission;
mod again;
mod hold;
mod hostile;
mod protocol;
mod start;
mod world;
