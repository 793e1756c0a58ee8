import { cleanup, fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { Boundary } from "../../src/view/parts/Boundary";

let isBroken = true;

function Part() {
  if (isBroken) throw new Error("no such field");
  return <p>all is well</p>;
}

beforeEach(() => {
  isBroken = true;
  vi.spyOn(console, "error").mockImplementation(() => {}); // React reports the error there, too
});
afterEach(() => {
  cleanup();
  vi.restoreAllMocks();
});

test("an error in one part says so in its place, and what is beside it stays", () => {
  render(
    <>
      <p>beside it</p>
      <Boundary of="engine">
        <Part />
      </Boundary>
    </>,
  );
  expect(screen.getByRole("alert").textContent).toContain("no such field");
  expect(screen.getByText("beside it")).toBeTruthy();
});

test("trying again draws the part again", () => {
  render(
    <Boundary of="engine">
      <Part />
    </Boundary>,
  );
  isBroken = false;
  fireEvent.click(screen.getByRole("button"));
  expect(screen.getByText("all is well")).toBeTruthy();
});

test("another part is drawn where the broken one was", () => {
  const { rerender } = render(
    <Boundary of="engine">
      <Part />
    </Boundary>,
  );
  rerender(
    <Boundary of="chat">
      <p>the chat</p>
    </Boundary>,
  );
  expect(screen.getByText("the chat")).toBeTruthy();
});
