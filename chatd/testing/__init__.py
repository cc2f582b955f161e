"""What ships for tests of chatd and of programs that embed it: a history checker and a fault-injecting proxy."""
