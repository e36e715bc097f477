/* The console: a line for people who look at the machine's serial port. */
#ifndef FIRKIN_CONSOLE_H
#define FIRKIN_CONSOLE_H

/* Writes a line on the console. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
