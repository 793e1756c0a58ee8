import type { ChatId } from "../model";

export function openChat(_id: ChatId): void {}
