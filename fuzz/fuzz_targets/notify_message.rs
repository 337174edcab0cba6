#![cfg_attr(fuzzing, no_main)]

rtc_fuzz::target!(rtc::fuzzing::notify_message);
