#![cfg_attr(fuzzing, no_main)]

rtc_fuzz::target!(rtc::fuzzing::option_values);
