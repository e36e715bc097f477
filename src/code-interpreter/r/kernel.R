# The program of R kernels: runs cells in the global environment. program_kernel.py says how it speaks.
local({
  paths <- commandArgs(trailingOnly = TRUE)
  orders <- file(paths[1], "rb", raw = TRUE)
  replies <- file(paths[2], "wb", raw = TRUE)
  folder <- tempfile("plots")
  dir.create(folder)
  plots <- NULL
  mime_types <- c("text/plain", "text/html", "text/markdown", "text/latex")
  # Called with these, the top of a cell has the name in errors that it has in Jupyter.
  envir <- enclos <- globalenv()
  parse_call <- quote(parse(text = x, srcfile = src))

  send <- function(kind, parts = list()) {
    payload <- raw()
    for (part in parts) {
      if (length(payload) > 0 || !identical(part, parts[[1]])) payload <- c(payload, as.raw(0))
      payload <- c(payload, charToRaw(enc2utf8(part)))
    }
    suspendInterrupts({
      writeBin(c(writeBin(length(payload), raw(), endian = "big"), charToRaw(kind), payload), replies)
      flush(replies)
    })
  }

  send_bundle <- function(bundle, is_main) {
    parts <- list(if (is_main) "1" else "0")
    for (mime_type in names(bundle)) {
      value <- bundle[[mime_type]]
      if (is.raw(value)) value <- base64enc::base64encode(value)
      if (is.character(value)) parts <- c(parts, mime_type, paste(value, collapse = "\n"))
    }
    if (length(parts) > 1) send("R", parts)
  }

  display_value <- function(value) {
    if (inherits(value, c("ggplot", "trellis", "recordedplot", "grob", "gtable"))) {
      print(value)
      return(invisible())
    }
    bundle <- list()
    for (mime_type in mime_types) {
      bundle[[mime_type]] <- tryCatch(repr::mime2repr[[mime_type]](value), error = function(e) NULL)
    }
    send_bundle(bundle, FALSE)
  }

  close_plots <- function() {
    if (is.null(plots)) return(invisible())
    if (plots %in% grDevices::dev.list()) grDevices::dev.off(plots)
    plots <<- NULL
    for (path in sort(list.files(folder, full.names = TRUE))) {
      send_bundle(list("image/png" = readBin(path, "raw", file.size(path))), FALSE)
      unlink(path)
    }
  }

  # A cell that draws gets this device.
  open_plots <- function(...) {
    grDevices::png(file.path(folder, "%04d.png"), width = 7, height = 7, units = "in", res = 120, type = "cairo")
    plots <<- grDevices::dev.cur()
  }

  send_error <- function(condition, calls) {
    call <- conditionCall(condition)
    place <- if (is.null(call)) "" else paste0(" in ", paste(deparse(call), collapse = "\n"))
    value <- paste0("Error", place, ": ", conditionMessage(condition), "\n")
    lines <- vapply(calls, function(each) paste(deparse(each), collapse = "\n"), "")
    traceback <- if (length(lines) > 0) paste0("Traceback:\n\n", paste0(seq_along(lines), ". ", lines, collapse = "\n"))
    send("X", list("ERROR", value, paste0(value, traceback)))
  }

  # The cell's own part of the calls at an error: after withVisible and both frames of eval, before the handlers.
  calls_of_cell <- function(all) {
    top <- which(vapply(all, function(call) identical(call[[1]], quote(withVisible)), NA))[1]
    if (is.na(top) || length(all) < top + 5) list() else all[(top + 3):(length(all) - 2)]
  }

  run_cell <- function(code) {
    calls <- list()
    tryCatch(
      withCallingHandlers(
        for (expr in parsed(code)) {
          shown <- withVisible(eval(expr, envir, enclos))
          if (shown$visible) display_value(shown$value)
        },
        error = function(condition) calls <<- calls_of_cell(sys.calls())
      ),
      error = function(condition) send_error(condition, calls),
      interrupt = function(condition) send("X", list("KeyboardInterrupt", "", ""))
    )
    close_plots()
  }

  parsed <- function(code) {
    tryCatch(parse(text = code, keep.source = FALSE, encoding = "UTF-8"), error = function(condition) {
      stop(simpleError(conditionMessage(condition), parse_call))
    })
  }

  options(
    warn = 1,
    device = open_plots,
    jupyter.base_display_func = function(data, metadata = NULL) send_bundle(data, FALSE)
  )
  # What the first value would load otherwise.
  for (mime_type in mime_types) try(repr::mime2repr[[mime_type]](data.frame(a = 1)), silent = TRUE)
  send("D")
  repeat {
    head <- readBin(orders, "raw", 5)
    if (length(head) < 5) quit("no")
    size <- readBin(head, "integer", 1, endian = "big")
    payload <- raw()
    while (length(payload) < size) payload <- c(payload, readBin(orders, "raw", size - length(payload)))
    # An interrupt that came too late for its cell must not end the next one.
    tryCatch(Sys.sleep(0), interrupt = function(condition) NULL)
    zero <- which(payload == 0)[1]
    first <- rawToChar(if (is.na(zero)) payload else payload[seq_len(zero - 1)])
    Encoding(first) <- "UTF-8"
    switch(rawToChar(head[5]),
      C = run_cell(first),
      V = {
        value <- rawToChar(payload[seq_along(payload) > zero])
        do.call(Sys.setenv, stats::setNames(list(value), first))
      },
      U = Sys.unsetenv(first),
      F = setwd(first),
      S = set.seed(readBin("/dev/urandom", "integer", 1))
    )
    send("D")
  }
})
