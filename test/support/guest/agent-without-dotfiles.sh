#!/bin/sh
# Runs the guest agent of the tests, given with its arguments, where login shells read no dotfiles of whoever runs the
# tests: those may take seconds, or wait for each other. Needs root, as whoever has none has no file hidden.
if [ "$(id -u)" != 0 ]; then exec "$@"; fi
exec unshare --mount sh -c '
  home=$(getent passwd root | cut -d: -f6)
  for file in .bash_profile .bash_login .profile .bashrc; do
    if [ -e "$home/$file" ]; then mount --bind /dev/null "$home/$file"; fi
  done
  exec "$@"' sh "$@"
