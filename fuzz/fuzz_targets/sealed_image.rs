#![cfg_attr(fuzzing, no_main)]

rtc_fuzz::target!(runtime_core::fuzzing::sealed_image);
