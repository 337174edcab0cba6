#![cfg_attr(fuzzing, no_main)]

rtc_fuzz::target!(criu::fuzzing::page_requests);
